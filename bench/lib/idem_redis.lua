-- The same on Redis: one SET NX GET is claim and look-up, one SET keeps the
-- response before the client sees it.

local _M = {}

local redis = require "nginx.redis"
local sha1, sleep, var, req = ngx.sha1_bin, ngx.sleep, ngx.var, ngx.req
local sub, find = string.sub, string.find


local function replay(value, fp)
    if sub(value, 1, 20) ~= fp then
        return ngx.exit(422)
    end

    local nl = find(value, "\n", 24, true)
    local body = sub(value, nl + 1)

    ngx.status = tonumber(sub(value, 21, 23))
    ngx.header["Content-Type"] = sub(value, 24, nl - 1)
    ngx.header["Content-Length"] = #body
    ngx.print(body)
end


local function first(red, key, fp, uri)
    local res = ngx.location.capture(uri, { method = ngx.HTTP_POST,
                                            always_forward_body = true })

    red:set(key, fp .. res.status .. (res.header["Content-Type"] or "")
            .. "\n" .. res.body, "EX", 86400)
    red:set_keepalive(60000, 1000)

    ngx.status = res.status
    ngx.header["Content-Type"] = res.header["Content-Type"]
    ngx.header["Content-Length"] = #res.body
    ngx.print(res.body)
end


function _M.content(port, uri)
    req.read_body()

    local fp = sha1(req.get_body_data() or "")
    local key = "idem:" .. var.http_idempotency_key
    local red = redis:new()

    if not red:connect("127.0.0.1", port) then
        return ngx.exit(503)
    end

    while true do
        local value, err = red:set(key, fp, "NX", "GET", "EX", 60)

        if err then
            return ngx.exit(503)
        end

        if value == ngx.null then
            return first(red, key, fp, uri)
        end

        if #value > 20 then
            red:set_keepalive(60000, 1000)
            return replay(value, fp)
        end

        sleep(0.01)
    end
end


return _M
