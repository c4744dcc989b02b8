
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/* Made by .ci/embed-lua: change src/store/lua/ and run that. */


#include "store/ngx_idem_redis_scripts.h"


ngx_idem_redis_script_t  ngx_idem_redis_scripts[NGX_IDEM_REDIS_SCRIPTS] = {

    { "claim",
    "-- Who may carry the request out: see store/ngx_idem_redis_scripts.h.\n"
    "local key, owner, fp, lease, life, unknown, wait = KEYS[1], unpack(ARGV)\n"
    "local v, t = redis.call('GETRANGE', key, '0', '89'), redis.call('TIME')\n"
    "local us, told, form = t[1] * 1000000 + t[2], '0', '>c3c16c32ddHBc1'\n"
    "local now, fence, seen = math.floor(us / 1000), us, ''\n"
    "if v ~= '' then\n"
    "    local s, o, f, n, l, c, y, w = struct.unpack(form, v)\n"
    "    assert(('I1r I1d I1u I1k'):find(s, 1, true), 'not a record')\n"
    "    local left = redis.call('PTTL', key)\n"
    "    local age, runs = math.max(l - left, 0), s == 'I1r' and left > l\n"
    "    if f ~= fp then return { 'M' } end\n"
    "    if s == 'I1d' then v = redis.call('GETRANGE', key, '71', '-1')\n"
    "        return { 'D', c, age, left, n, y, v }\n"
    "    elseif s == 'I1u' then return { 'S', c, age, left, n, y }\n"
    "    elseif runs and o ~= owner then\n"
    "        if wait > w then redis.call('SETRANGE', key, '70', wait) end\n"
    "        return { 'B', left - l }\n"
    "    elseif runs then                    -- sent again: as before\n"
    "        fence, life, told, seen = n, l, w, v:sub(72)\n"
    "    elseif unknown == '0' then return { 'U', age }\n"
    "    else fence, told = math.max(n + 1, us), w end\n"
    "    if not runs then seen = struct.pack('>ddH', now + left - l, l, c)\n"
    "            .. (unknown == '1' and 'O' or '') end\n"
    "    if unknown == '2' and not runs then life = left end\n"
    "elseif ARGV[7] == '1' then return { 'A' } end\n"
    "v = struct.pack(form, 'I1r', owner, fp, fence, life, 0, 0, told)\n"
    "redis.call('SET', key, v .. seen, 'PX', lease + life)\n"
    "if #seen ~= 18 then return { 'O', fence, seen ~= '' and 1 or nil } end\n"
    "local born, was, status = struct.unpack('>ddH', seen)\n"
    "return { 'C', fence, math.max(now - born, 0), status, born, was }\n",
      1691, "20aefc850bc74e28f3003ce3e7513876189d55d2" },

    { "renew",
    "-- Prolongs the lease of owner: see store/ngx_idem_redis_scripts.h.\n"
    "\n"
    "local key, owner, lease = KEYS[1], unpack(ARGV)\n"
    "local v = redis.call('GET', key)\n"
    "if not v or not v:find('^[IG]1r') or v:sub(4, 19) ~= owner then\n"
    "    return { 'L' } end\n"
    "\n"
    "local life = struct.unpack('>d', v, 60)\n"
    "if redis.call('PTTL', key) <= life then return { 'L' } end\n"
    "\n"
    "redis.call('PEXPIRE', key, lease + life)\n"
    "return { 'O' }\n",
      394, "62d837e803487d7f979489f0cb3b87e98b938581" },

    { "complete",
    "-- Ends the claim of owner: see store/ngx_idem_redis_scripts.h.\n"
    "\n"
    "local key, owner, state, life, status, dry, record, ends, channel =\n"
    "    KEYS[1], unpack(ARGV)\n"
    "local verdict = state == 'd' and 'D' or state == 'u' and 'S' or 'U'\n"
    "local v = redis.call('GET', key)\n"
    "if not v or v:sub(4, 19) ~= owner then return { 'L' } end\n"
    "\n"
    "local s = v:sub(1, 3)\n"
    "if s == 'I1' .. state then return { verdict } end       -- sent again\n"
    "if s ~= 'I1r' then return { 'L' } end\n"
    "local l, c, y, told = struct.unpack('>dHBc1', v, 60)\n"
    "if redis.call('PTTL', key) <= l then return { 'L' } end\n"
    "\n"
    "v = 'I1' .. state .. v:sub(4, 59)\n"
    "    .. struct.pack('>dHBc1', life, status, dry, '0') .. record\n"
    "\n"
    "if ends ~= '' then              -- put back: ends as it would have ended\n"
    "    redis.call('SET', key, v)\n"
    "    redis.call('PEXPIREAT', key, ends)\n"
    "elseif life == '0' then\n"
    "    redis.call('DEL', key)\n"
    "else\n"
    "    redis.call('SET', key, v, 'PX', life)\n"
    "end\n"
    "if told == '1' then redis.call('PUBLISH', channel, verdict) end\n"
    "return { verdict }\n",
      984, "9050cf39f75d8d722e773ffa96e9457884384731" },

    { "release",
    "-- Forgets the claim of owner: see store/ngx_idem_redis_scripts.h.\n"
    "\n"
    "local key, owner, channel, back = KEYS[1], unpack(ARGV)\n"
    "local v, verdict = redis.call('GET', key), 'A'\n"
    "if not v or v:sub(1, 19) ~= 'I1r' .. owner then return { 'L' } end\n"
    "\n"
    "local life, _, dry, told = struct.unpack('>dHBc1', v, 60)\n"
    "if redis.call('PTTL', key) <= life then return { 'L' } end\n"
    "\n"
    "if back == '1' and #v > 71 then         -- it was unknown, and still is\n"
    "    local born, was, status = struct.unpack('>ddH', v, 72)\n"
    "    verdict = 'U'\n"
    "    redis.call('SET', key, 'I1k' .. v:sub(4, 59)\n"
    "               .. struct.pack('>dHBc1', was, status, dry, '0'))\n"
    "    redis.call('PEXPIREAT', key, born + was)\n"
    "else\n"
    "    redis.call('DEL', key)\n"
    "end\n"
    "if told == '1' then redis.call('PUBLISH', channel, verdict) end\n"
    "return { verdict }\n",
      783, "ea4b6c221363bad2df4113b817f6c9500a269765" },

    { "load",
    "-- Shows a record: see store/ngx_idem_redis_scripts.h.\n"
    "\n"
    "local key, whole, record, size = KEYS[1], ARGV[1], '', 0\n"
    "local v = redis.call('GETRANGE', key, '0', '70')\n"
    "if v == '' then return { 'A' } end\n"
    "\n"
    "local s, o, fp, fence, life, status, dry, told =\n"
    "    struct.unpack('>c3c16c32ddHBc1', v)\n"
    "assert(('I1r I1d I1u I1k'):find(s, 1, true), 'not a record')\n"
    "\n"
    "local left = redis.call('PTTL', key)\n"
    "local age, verdict = math.max(life - left, 0), s == 'I1u' and 'S' or 'U'\n"
    "if s == 'I1r' and left > life then\n"
    "    verdict, left = 'B', left - life\n"
    "elseif s == 'I1d' then\n"
    "    verdict, size = 'D', redis.call('STRLEN', key) - 71\n"
    "end\n"
    "\n"
    "if verdict == 'D' and whole == '1' then\n"
    "    record = redis.call('GETRANGE', key, '71', '-1')\n"
    "end\n"
    "return { verdict, status, age, left, fence, dry, life, tonumber(told),\n"
    "         size, fp, record }\n",
      811, "2b5eefafd5981d66f5d5e25725c88a5ac3494c9f" },

    { "hold",
    "-- Who may change the resource: see store/ngx_idem_redis_scripts.h.\n"
    "local key, owner, lease, life, mine, most = KEYS[1], unpack(ARGV)\n"
    "local v = redis.call('GET', key) or 'G1d' .. ('\\0'):rep(74)\n"
    "local t, form, queue = redis.call('TIME'), '>c3c16c32ddHBc1HHH', ''\n"
    "local s, o, f, n, l, c, y, w, a, b = struct.unpack(form, v)\n"
    "assert(s == 'G1r' or s == 'G1d', 'not a guard')\n"
    "local left, now = redis.call('PTTL', key), t[1] * 1000 + t[2] / 1000\n"
    "local value, found = v:sub(78, 77 + a), v:sub(78 + a, 77 + a + b)\n"
    "local held, place, wait = s == 'G1r' and left > l\n"
    "for i = 78 + a + b, #v, 24 do           -- who is alive keeps his place\n"
    "    local who, seen = struct.unpack('>c16d', v, i)\n"
    "    if who == owner then place, seen = #queue / 24, now end\n"
    "    if math.abs(now - seen) < 3000 then\n"
    "        queue = queue .. struct.pack('>c16d', who, seen) end\n"
    "end\n"
    "local at, me = place or #queue / 24, struct.pack('>c16d', owner, now)\n"
    "if held and o ~= owner or not held and at > 0 then\n"
    "    wait = { 'B', held and left - l or 0, at + 1 }\n"
    "    if not place and at >= most + 0 then wait[3] = 0 return wait end\n"
    "    if not place then queue = queue .. me end\n"
    "elseif not held then                    -- else asked again: as before\n"
    "    queue, s, o, n, l = queue:sub(25), 'G1r', owner,\n"
    "        math.max(n + 1, t[1] * 1e6 + t[2]), math.max(life, left, 4000)\n"
    "    w, found = found == '' and 'O' or 'C', found == '' and mine or found\n"
    "end\n"
    "redis.call('SET', key, struct.pack(form, s, o, f, n, l, 0, 0, w, #value,\n"
    "    #found, #queue / 24) .. value .. found .. queue, 'KEEPTTL')\n"
    "if not (wait and held) then redis.call('PEXPIRE', key,\n"
    "        wait and math.max(left, 4000) or lease + l) end\n"
    "return wait or { w, n, value, found }\n",
      1688, "43235e79efcc07fa271bcb90006431cbbf7804b6" },

    { "mark",
    "-- What the holder is about to do: see store/ngx_idem_redis_scripts.h.\n"
    "\n"
    "local key, owner, value, pending = KEYS[1], unpack(ARGV)\n"
    "local v = redis.call('GET', key)\n"
    "if not v or v:sub(1, 19) ~= 'G1r' .. owner then return { 'L' } end\n"
    "\n"
    "local life, _, _, _, a, b, waiters = struct.unpack('>dHBc1HHH', v, 60)\n"
    "if redis.call('PTTL', key) <= life then return { 'L' } end\n"
    "\n"
    "redis.call('SET', key, v:sub(1, 70) .. 'O'\n"
    "           .. struct.pack('>HHH', #value, #pending, waiters)\n"
    "           .. value .. pending .. v:sub(78 + a + b), 'KEEPTTL')\n"
    "return { 'O' }\n",
      544, "3eb71520b9a3b59907bdf51a6b0d148a6af75645" },

    { "leave",
    "-- Lets a guard go, or its queue: see store/ngx_idem_redis_scripts.h.\n"
    "local key, owner, value, pending, life, channel, back =\n"
    "    KEYS[1], unpack(ARGV)\n"
    "local v, t, queue = redis.call('GET', key), redis.call('TIME'), ''\n"
    "if not v or not v:find('^G1[rd]') then return { 'L' } end\n"
    "local form, now = '>c3c16c32ddHBc1HHH', t[1] * 1000 + t[2] / 1000\n"
    "local s, o, f, n, l, c, y, w, a, b = struct.unpack(form, v)\n"
    "local held = s == 'G1r' and redis.call('PTTL', key) > l\n"
    "local mine = held and o == owner\n"
    "if not mine and back == '0' then return { 'L' } end\n"
    "\n"
    "for i = 78 + a + b, #v, 24 do\n"
    "    local who, seen = struct.unpack('>c16d', v, i)\n"
    "    if who ~= owner and math.abs(now - seen) < 3000 then\n"
    "        queue = queue .. v:sub(i, i + 23) end\n"
    "end\n"
    "if back == '1' then life, value, pending = l, v:sub(78, 77 + a),\n"
    "    mine and w == 'O' and '' or v:sub(78 + a, 77 + a + b) end\n"
    "if mine then s, l, held = 'G1d', tonumber(life), false end\n"
    "if mine and l == 0 then value, pending = '', '' end\n"
    "if not held and value .. pending .. queue == '' then\n"
    "    redis.call('DEL', key) return { 'A' } end\n"
    "\n"
    "redis.call('SET', key, struct.pack(form, s, o, f, n, l, 0, 0, w, #value,\n"
    "    #pending, #queue / 24) .. value .. pending .. queue, 'KEEPTTL')\n"
    "if mine then redis.call('PEXPIRE', key,\n"
    "        queue == '' and l or math.max(l, 4000)) end\n"
    "if not held and queue ~= '' then        -- the first of them is told\n"
    "    redis.call('PUBLISH', channel, queue:sub(1, 16)) end\n"
    "return { 'A' }\n",
      1445, "5c8ce045097cab81cc0677dcb3e0b6ab46f19fb4" }
};
