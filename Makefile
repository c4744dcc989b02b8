
# Copyright (C) the authors of ngx_http_idempotency_module


# The nginx to build for: its headers as Debian's nginx-dev installs them, or
# a source tree.  Changing flags of a tree that is built: "make clean" first.

NGINX_SRC ?= /usr/share/nginx/src
NGX_FLAGS ?= --with-compat --with-debug --with-http_ssl_module                \
	--with-http_v2_module --with-threads

JOBS ?= $(shell n=$$(nproc); echo $$((n > 2 ? n : 2)))
FUZZ_SECONDS ?= 60

SHELL = /bin/bash
.SHELLFLAGS = -e -o pipefail -c
MAKEFLAGS += --no-print-directory $(if $(filter 0,$(MAKELEVEL)),-j$(JOBS))
.DEFAULT_GOAL = all
.DELETE_ON_ERROR:

MODULE = build/ngx_http_idempotency_module.so
TREE = build/tree-$(notdir $(abspath $(NGINX_SRC)))
SOURCE = build/nginx-source
FAIL = build/fail_malloc.so
NGINX = $(shell PATH=$$PATH:/usr/sbin; command -v nginx)

WARNINGS = -Wshadow -Wstrict-prototypes -Wmissing-prototypes                  \
	-Wold-style-declaration -Wdeclaration-after-statement -Wcast-qual     \
	-Wvla -Wformat=2 -Wswitch-enum -Wimplicit-fallthrough                 \
	-Wnull-dereference -Wlogical-op -Wduplicated-cond                     \
	-Wduplicated-branches

HARDENING = -O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2                  \
	-ffile-prefix-map=$(CURDIR)=.

SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all             \
	-fno-omit-frame-pointer

# an nginx of our own, with what the tests make use of

FULL_FLAGS = --prefix=. --error-log-path=stderr --with-compat --with-debug    \
	--with-threads --with-http_ssl_module --with-http_v2_module           \
	--with-http_addition_module --with-http_auth_request_module           \
	--with-http_gunzip_module --with-http_realip_module                   \
	--with-http_slice_module --with-http_stub_status_module               \
	--with-http_sub_module


# $(call configure,tree,flags of nginx,flags of ours,environment): a Debian tree
# has its own flags

define configure
	@cd $(1) && rm -rf objs && conf=configure && flags=($(2))             \
	    && if [ -f conf_flags ]; then . ./conf_flags;                     \
	           flags=("$${NGX_CONF_FLAGS[@]}"); fi                        \
	    && if [ ! -f $$conf ]; then conf=auto/configure; fi               \
	    && if ! $(4) bash $$conf "$${flags[@]}" $(3)                      \
	           > configure.log 2>&1; then                                 \
	           tail -20 configure.log; exit 1; fi
endef


# $(call prove,module,nginx,unit programs): all tests in one go

define prove
IDEMPOTENCY_MODULE=$(abspath $(1)) IDEMPOTENCY_NGINX=$(abspath $(2))      \
	    prove --directives -j$(JOBS) $(3)/* t/*.t
endef


all: $(MODULE) $(FAIL)  ## build the module for the installed nginx (or NGINX_SRC=dir)

$(TREE)/src/core/nginx.h: FORCE
	@if [ ! -f $(NGINX_SRC)/src/core/nginx.h ]; then .ci/install; fi
	@if ! cmp -s $(NGINX_SRC)/src/core/nginx.h $@; then                     \
	    rm -rf $(TREE); mkdir -p build; cp -rL $(NGINX_SRC) $(TREE); fi

$(TREE)/objs/Makefile: config Makefile $(TREE)/src/core/nginx.h
	$(call configure,$(TREE),$(NGX_FLAGS),                                \
	    --with-cc-opt="$(HARDENING) $(WARNINGS)"                          \
	    --with-ld-opt="-Wl$(,)-z$(,)relro -Wl$(,)-z$(,)now"               \
	    --add-dynamic-module=$(CURDIR))

$(MODULE): FORCE $(TREE)/objs/Makefile
	@$(MAKE) -s -C $(TREE) -f objs/Makefile modules
	@if ! cmp -s $(TREE)/objs/$(@F) $@; then                              \
	    cp $(TREE)/objs/$(@F) $@.new; mv $@.new $@; echo $@; fi

, = ,

run: run-payments  ## start nginx with the module in front of a sample upstream

run-%: all  ## the same for a recipe: run-stripe, run-form, ...
	@examples/recipe $*

run-redis: all  ## start two nodes that share a Redis
	@examples/run-redis

demo: all  ## show the promise: a payment sent twice, carried out once
	@examples/recipe payments --once

bench: all  ## measure against the goals
	@bench/run

torture: all  ## a minute of everything at once (SECONDS=number SEED=text REDIS=1 GUARDS=1)
	@bench/torture $(SECONDS:%=--seconds %) $(SEED:%=--seed %)            \
	    $(REDIS:%=--redis) $(GUARDS:%=--guards)

mutants: all  ## check that the torture notices what is broken on purpose
	@.ci/mutants

test: all unit-programs points  ## run all tests: unit programs and t/*.t
	IDEMPOTENCY_POINTS=$(abspath $(POINTS)/objs/$(notdir $(MODULE)))      \
	    $(call prove,$(MODULE),$(NGINX),build/unit) | tee build/test.log

unit: unit-programs  ## run the unit tests alone
	prove -j$(JOBS) build/unit/*


# The module with places where a test kills it, for the installed nginx

POINTS = build/points

points: FORCE $(POINTS)/objs/Makefile
	@$(MAKE) -s -C $(POINTS) -f objs/Makefile modules                     \
	    CC="$(CC) -DNGX_IDEM_POINTS"

$(POINTS)/objs/Makefile: $(TREE)/objs/Makefile | $(MODULE)
	@rm -rf $(POINTS); cp -r $(TREE) $(POINTS)
	@find $(POINTS)/objs -name '*.o' -delete -o -name '*.so' -delete


# Unit programs: a program each t/unit/test_*.c, with what it needs of the
# core and store floors, which are built as an archive for it.  PROGRAMS names
# their directory; SANITIZE is added if it is another one.

PROGRAMS ?= build/unit
OBJECTS = $(PROGRAMS)-objs

UNIT_FLAGS = -O2 -g -W -Wall -Wpointer-arith -Wno-unused-parameter -Werror    \
	$(WARNINGS) -MMD -MP $(EXTRA)
CORE_FLAGS = -std=c99 -pedantic -Wconversion -Wsign-conversion
UNIT_INCS = -I src -I t/unit                                                  \
	$(addprefix -I $(TREE)/,src/core src/event src/event/modules          \
	    src/os/unix objs)

CORE_OBJS = $(patsubst src/%.c,$(OBJECTS)/%.o,$(wildcard src/core/*.c))
STORE_OBJS = $(patsubst src/%.c,$(OBJECTS)/%.o,$(wildcard src/store/*.c))
TESTS = $(patsubst t/unit/%.c,$(PROGRAMS)/%,$(wildcard t/unit/test_*.c))

unit-programs: $(TESTS)

$(CORE_OBJS): $(OBJECTS)/%.o: src/%.c Makefile
	@mkdir -p $(@D)
	@$(CC) $(UNIT_FLAGS) $(CORE_FLAGS) -I src -c $< -o $@

$(STORE_OBJS): $(OBJECTS)/%.o: src/%.c Makefile | $(TREE)/objs/Makefile
	@mkdir -p $(@D)
	@$(CC) $(UNIT_FLAGS) $(UNIT_INCS) -c $< -o $@

# hiredis, if the module was configured with it

HIREDIS = $(shell grep -qs 'define NGX_HAVE_HIREDIS' $(TREE)/objs/ngx_auto_config.h \
	    && echo -l:libhiredis.a)

$(OBJECTS)/floors.a: $(CORE_OBJS) $(STORE_OBJS)
	@rm -f $@
	@$(AR) rcs $@ $^

$(TESTS): $(PROGRAMS)/%: t/unit/%.c $(OBJECTS)/floors.a Makefile              \
		| $(TREE)/objs/Makefile
	@mkdir -p $(@D)
	@$(CC) $(UNIT_FLAGS) $(UNIT_INCS) -MF $(OBJECTS)/$*.d $<              \
	    $(OBJECTS)/floors.a $(HIREDIS) -lcrypto -lpthread -o $@

-include $(wildcard $(OBJECTS)/*.d $(OBJECTS)/*/*.d)


# The same tests in an nginx of our own, all of it with AddressSanitizer and
# our part with UndefinedBehaviorSanitizer as well.  The tests look for reports.

ASAN = build/asan

asan: $(ASAN)/objs/nginx $(FAIL)  ## run all tests again with sanitizers
	@$(MAKE) unit-programs PROGRAMS=build/asan-unit EXTRA="$(SANITIZE)"
	IDEMPOTENCY_POINTS=$(abspath $(ASAN)/objs/$(notdir $(MODULE)))        \
	ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0                    \
	    $(call prove,$(ASAN)/objs/$(notdir $(MODULE)),$<,build/asan-unit) \
	    | tee build/asan.log

$(SOURCE)/src/core/nginx.h:
	@.ci/install all
	.ci/nginx-source $(SOURCE)

$(ASAN)/objs/Makefile: config Makefile $(SOURCE)/src/core/nginx.h
	@mkdir -p build; rm -rf $(ASAN); cp -r $(SOURCE) $(ASAN)
	$(call configure,$(ASAN),$(FULL_FLAGS),                               \
	    --with-cc-opt="-O1 -fsanitize=address -fno-omit-frame-pointer     \
	        -DNGX_DEBUG_PALLOC=1 -DNGX_IDEM_POINTS"                       \
	    --with-ld-opt=-fsanitize=address                                \
	    --add-dynamic-module=$(CURDIR))

$(ASAN)/objs/nginx: FORCE $(ASAN)/objs/Makefile
	@$(MAKE) -s -C $(ASAN) -f objs/Makefile binary
	@$(MAKE) -s -C $(ASAN) -f objs/Makefile modules CC="$(CC) $(SANITIZE)"


# A static build, which must do the essential.

STATIC = build/static

static: $(STATIC)/objs/Makefile FORCE  ## build and try nginx with the module in it
	@$(MAKE) -s -C $(STATIC) -f objs/Makefile binary
	IDEMPOTENCY_MODULE= IDEMPOTENCY_NGINX=$(CURDIR)/$(STATIC)/objs/nginx  \
	    prove -j$(JOBS) t/2*.t

$(STATIC)/objs/Makefile: config Makefile $(SOURCE)/src/core/nginx.h
	@mkdir -p build; rm -rf $(STATIC); cp -r $(SOURCE) $(STATIC)
	$(call configure,$(STATIC),$(FULL_FLAGS),--add-module=$(CURDIR))


# A module without hiredis, which must say so, and do all else.

WITHOUT = build/noredis

noredis: FORCE $(WITHOUT)/objs/Makefile  ## build and try the module without Redis
	@$(MAKE) -s -C $(WITHOUT) -f objs/Makefile modules
	IDEMPOTENCY_REDIS=no                                                  \
	IDEMPOTENCY_MODULE=$(CURDIR)/$(WITHOUT)/objs/$(notdir $(MODULE))      \
	    prove -j$(JOBS) t/67-no-redis.t t/20-outcomes.t

$(WITHOUT)/objs/Makefile: config Makefile | $(TREE)/objs/Makefile
	@mkdir -p build; rm -rf $(WITHOUT); cp -r $(TREE) $(WITHOUT)
	$(call configure,$(WITHOUT),$(NGX_FLAGS),                             \
	    --with-cc-opt="$(WARNINGS)" --add-dynamic-module=$(CURDIR),       \
	    IDEMPOTENCY_REDIS=no)


# What t/72-no-memory.t loads into nginx.

$(FAIL): t/fail/fail_malloc.c Makefile
	@mkdir -p $(@D)
	@$(CC) $(UNIT_FLAGS) -MF $@.d -shared -fPIC $< -ldl -o $@


# Fuzz targets: a program each t/fuzz/fuzz_*.c.  "make fuzz" replays the corpus
# and made-up inputs, "make fuzz-key" runs libFuzzer for FUZZ_SECONDS.

FUZZERS = $(filter-out $(if $(wildcard /usr/include/hiredis),,redis_reply)    \
	    $(if $(wildcard /usr/include/jansson.h),,json),                   \
	$(patsubst t/fuzz/fuzz_%.c,%,$(wildcard t/fuzz/fuzz_*.c)))

fuzz: $(FUZZERS:%=replay-%)  ## replay the fuzz corpus (fuzz-NAME: libFuzzer)

build/fuzz/%: t/fuzz/fuzz_%.c $(wildcard src/core/*.[ch] t/fuzz/*.h) Makefile
	@mkdir -p $(@D)
	@$(CC) $(UNIT_FLAGS) $(SANITIZE) -MF $@.d -I src -I t/fuzz $(MORE) $< \
	    src/core/*.c -lcrypto $(LIBS) -o $@

# one of them is for what stands between hiredis and the store

WIRE = src/store/ngx_idem_redis_wire.c

build/fuzz/redis_reply: $(WIRE) $(WIRE:.c=.h) | $(TREE)/objs/Makefile
build/fuzz/redis_reply fuzz-redis_reply: MORE = $(UNIT_INCS)      \
	-DNGX_HAVE_HIREDIS=1 $(WIRE)
build/fuzz/redis_reply fuzz-redis_reply: LIBS = -l:libhiredis.a

# and one compares with a parser of JSON

build/fuzz/json fuzz-json: LIBS = -ljansson

$(FUZZERS:%=replay-%): replay-%: build/fuzz/%
	@$< t/fuzz/corpus/$*/*
	@$<
	@echo "fuzz $*: ok"

$(FUZZERS:%=fuzz-%): fuzz-%:
	@mkdir -p build/fuzz/found-$*
	clang -g -O1 -fsanitize=fuzzer,address,undefined -DNGX_IDEM_LIBFUZZER \
	    -I src -I t/fuzz $(MORE) t/fuzz/fuzz_$*.c src/core/*.c            \
	    -lcrypto $(LIBS) -o build/fuzz/libfuzzer-$*
	build/fuzz/libfuzzer-$* -max_total_time=$(FUZZ_SECONDS)               \
	    build/fuzz/found-$* t/fuzz/corpus/$*


lint: FORCE  ## check style and floors
	@.ci/lint
	@.ci/layers
	@.ci/embed-lua check

exports: all  ## check the names that the module exports
	@.ci/exports $(MODULE)

help:  ## list these targets
	@sed -n 's/^\([a-z%-]*\):.*  ## \(.*\)/\1\t\2/p' Makefile | expand -t 11

clean:  ## remove all that was built
	rm -rf build

FORCE:

.PHONY: all run run-redis demo bench torture mutants test points unit        \
	unit-programs asan static noredis fuzz lint exports help clean FORCE  \
	$(FUZZERS:%=replay-%) $(FUZZERS:%=fuzz-%)
