-- Who may change the resource: see store/ngx_idem_redis_scripts.h.
local key, owner, lease, life, mine, most = KEYS[1], unpack(ARGV)
local v = redis.call('GET', key) or 'G1d' .. ('\0'):rep(74)
local t, form, queue = redis.call('TIME'), '>c3c16c32ddHBc1HHH', ''
local s, o, f, n, l, c, y, w, a, b = struct.unpack(form, v)
assert(s == 'G1r' or s == 'G1d', 'not a guard')
local left, now = redis.call('PTTL', key), t[1] * 1000 + t[2] / 1000
local value, found = v:sub(78, 77 + a), v:sub(78 + a, 77 + a + b)
local held, place, wait = s == 'G1r' and left > l
for i = 78 + a + b, #v, 24 do           -- who is alive keeps his place
    local who, seen = struct.unpack('>c16d', v, i)
    if who == owner then place, seen = #queue / 24, now end
    if math.abs(now - seen) < 3000 then
        queue = queue .. struct.pack('>c16d', who, seen) end
end
local at, me = place or #queue / 24, struct.pack('>c16d', owner, now)
if held and o ~= owner or not held and at > 0 then
    wait = { 'B', held and left - l or 0, at + 1 }
    if not place and at >= most + 0 then wait[3] = 0 return wait end
    if not place then queue = queue .. me end
elseif not held then                    -- else asked again: as before
    queue, s, o, n, l = queue:sub(25), 'G1r', owner,
        math.max(n + 1, t[1] * 1e6 + t[2]), math.max(life, left, 4000)
    w, found = found == '' and 'O' or 'C', found == '' and mine or found
end
redis.call('SET', key, struct.pack(form, s, o, f, n, l, 0, 0, w, #value,
    #found, #queue / 24) .. value .. found .. queue, 'KEEPTTL')
if not (wait and held) then redis.call('PEXPIRE', key,
        wait and math.max(left, 4000) or lease + l) end
return wait or { w, n, value, found }
