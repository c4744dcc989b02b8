-- Idempotency as it is usually written for a Lua shared dictionary: add() is
-- the claim, the response is kept under the same key with its status as flags.

local _M = {}

local sha1, sleep, var, req = ngx.sha1_bin, ngx.sleep, ngx.var, ngx.req
local shared, sub, find = ngx.shared, string.sub, string.find


local function replay(value, status, fp)
    if sub(value, 1, 20) ~= fp then
        return ngx.exit(422)
    end

    local nl = find(value, "\n", 21, true)
    local body = sub(value, nl + 1)

    ngx.status = status
    ngx.header["Content-Type"] = sub(value, 21, nl - 1)
    ngx.header["Content-Length"] = #body
    ngx.print(body)

    return ngx.exit(status)
end


function _M.access(name)
    local dict = shared[name]

    req.read_body()

    local fp = sha1(req.get_body_data() or "")
    local key = var.http_idempotency_key

    while true do
        local value, status = dict:get(key)

        if not value then
            local ok, err = dict:add(key, fp, 60)

            if ok then
                ngx.ctx.idem = { dict = dict, key = key, fp = fp, n = 0 }
                return
            end

            if err ~= "exists" then
                return ngx.exit(503)
            end

        elseif status then
            return replay(value, status, fp)

        else
            sleep(0.01)
        end
    end
end


function _M.body()
    local c = ngx.ctx.idem

    if not c then
        return
    end

    c.n = c.n + 1
    c[c.n] = ngx.arg[1]

    if ngx.arg[2] then
        local head = c.fp .. (ngx.header["Content-Type"] or "") .. "\n"
        c.dict:set(c.key, head .. table.concat(c, "", 1, c.n), 86400,
                   ngx.status)
    end
end


function _M.count(name)
    local n = tostring(#shared[name]:get_keys(0))

    ngx.header["Content-Length"] = #n
    ngx.print(n)
end


return _M
