-- What the holder is about to do: see store/ngx_idem_redis_scripts.h.

local key, owner, value, pending = KEYS[1], unpack(ARGV)
local v = redis.call('GET', key)
if not v or v:sub(1, 19) ~= 'G1r' .. owner then return { 'L' } end

local life, _, _, _, a, b, waiters = struct.unpack('>dHBc1HHH', v, 60)
if redis.call('PTTL', key) <= life then return { 'L' } end

redis.call('SET', key, v:sub(1, 70) .. 'O'
           .. struct.pack('>HHH', #value, #pending, waiters)
           .. value .. pending .. v:sub(78 + a + b), 'KEEPTTL')
return { 'O' }
