-- Shows a record: see store/ngx_idem_redis_scripts.h.

local key, whole, record, size = KEYS[1], ARGV[1], '', 0
local v = redis.call('GETRANGE', key, '0', '70')
if v == '' then return { 'A' } end

local s, o, fp, fence, life, status, dry, told =
    struct.unpack('>c3c16c32ddHBc1', v)
assert(('I1r I1d I1u I1k'):find(s, 1, true), 'not a record')

local left = redis.call('PTTL', key)
local age, verdict = math.max(life - left, 0), s == 'I1u' and 'S' or 'U'
if s == 'I1r' and left > life then
    verdict, left = 'B', left - life
elseif s == 'I1d' then
    verdict, size = 'D', redis.call('STRLEN', key) - 71
end

if verdict == 'D' and whole == '1' then
    record = redis.call('GETRANGE', key, '71', '-1')
end
return { verdict, status, age, left, fence, dry, life, tonumber(told),
         size, fp, record }
