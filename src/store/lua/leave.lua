-- Lets a guard go, or its queue: see store/ngx_idem_redis_scripts.h.
local key, owner, value, pending, life, channel, back =
    KEYS[1], unpack(ARGV)
local v, t, queue = redis.call('GET', key), redis.call('TIME'), ''
if not v or not v:find('^G1[rd]') then return { 'L' } end
local form, now = '>c3c16c32ddHBc1HHH', t[1] * 1000 + t[2] / 1000
local s, o, f, n, l, c, y, w, a, b = struct.unpack(form, v)
local held = s == 'G1r' and redis.call('PTTL', key) > l
local mine = held and o == owner
if not mine and back == '0' then return { 'L' } end

for i = 78 + a + b, #v, 24 do
    local who, seen = struct.unpack('>c16d', v, i)
    if who ~= owner and math.abs(now - seen) < 3000 then
        queue = queue .. v:sub(i, i + 23) end
end
if back == '1' then life, value, pending = l, v:sub(78, 77 + a),
    mine and w == 'O' and '' or v:sub(78 + a, 77 + a + b) end
if mine then s, l, held = 'G1d', tonumber(life), false end
if mine and l == 0 then value, pending = '', '' end
if not held and value .. pending .. queue == '' then
    redis.call('DEL', key) return { 'A' } end

redis.call('SET', key, struct.pack(form, s, o, f, n, l, 0, 0, w, #value,
    #pending, #queue / 24) .. value .. pending .. queue, 'KEEPTTL')
if mine then redis.call('PEXPIRE', key,
        queue == '' and l or math.max(l, 4000)) end
if not held and queue ~= '' then        -- the first of them is told
    redis.call('PUBLISH', channel, queue:sub(1, 16)) end
return { 'A' }
