-- Who may carry the request out: see store/ngx_idem_redis_scripts.h.
local key, owner, fp, lease, life, unknown, wait = KEYS[1], unpack(ARGV)
local v, t = redis.call('GETRANGE', key, '0', '89'), redis.call('TIME')
local us, told, form = t[1] * 1000000 + t[2], '0', '>c3c16c32ddHBc1'
local now, fence, seen = math.floor(us / 1000), us, ''
if v ~= '' then
    local s, o, f, n, l, c, y, w = struct.unpack(form, v)
    assert(('I1r I1d I1u I1k'):find(s, 1, true), 'not a record')
    local left = redis.call('PTTL', key)
    local age, runs = math.max(l - left, 0), s == 'I1r' and left > l
    if f ~= fp then return { 'M' } end
    if s == 'I1d' then v = redis.call('GETRANGE', key, '71', '-1')
        return { 'D', c, age, left, n, y, v }
    elseif s == 'I1u' then return { 'S', c, age, left, n, y }
    elseif runs and o ~= owner then
        if wait > w then redis.call('SETRANGE', key, '70', wait) end
        return { 'B', left - l }
    elseif runs then                    -- sent again: as before
        fence, life, told, seen = n, l, w, v:sub(72)
    elseif unknown == '0' then return { 'U', age }
    else fence, told = math.max(n + 1, us), w end
    if not runs then seen = struct.pack('>ddH', now + left - l, l, c)
            .. (unknown == '1' and 'O' or '') end
    if unknown == '2' and not runs then life = left end
elseif ARGV[7] == '1' then return { 'A' } end
v = struct.pack(form, 'I1r', owner, fp, fence, life, 0, 0, told)
redis.call('SET', key, v .. seen, 'PX', lease + life)
if #seen ~= 18 then return { 'O', fence, seen ~= '' and 1 or nil } end
local born, was, status = struct.unpack('>ddH', seen)
return { 'C', fence, math.max(now - born, 0), status, born, was }
