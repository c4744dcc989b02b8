
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_guard.h"
#include "http/ngx_http_idempotency.h"


#define NGX_HTTP_IDEMPOTENCY_QUEUE  64


static ngx_http_idempotency_guard_conf_t *ngx_http_idempotency_guard_add(
    ngx_conf_t *cf, void *conf, ngx_http_idempotency_kind_e kind, char **rv);
static ngx_int_t ngx_http_idempotency_guard_value(ngx_conf_t *cf,
    ngx_str_t *value, ngx_http_complex_value_t *cv);
static char *ngx_http_idempotency_serialize_parameter(ngx_conf_t *cf,
    ngx_http_idempotency_guard_conf_t *gc, ngx_str_t *value);
static char *ngx_http_idempotency_late(ngx_conf_t *cf,
    ngx_http_idempotency_guard_conf_t *gc, ngx_str_t *value);

static ngx_int_t ngx_http_idempotency_machine_use(ngx_conf_t *cf,
    ngx_http_idempotency_machine_t *ma, ngx_str_t *target);
static ngx_http_idempotency_machine_t *ngx_http_idempotency_machine(
    ngx_conf_t *cf, ngx_str_t *name);
static char *ngx_http_idempotency_states_line(ngx_conf_t *cf,
    ngx_command_t *dummy, void *conf);
static char *ngx_http_idempotency_states_check(ngx_conf_t *cf,
    ngx_http_idempotency_machine_t *ma);
static ngx_uint_t ngx_http_idempotency_is_long(
    const ngx_http_idempotency_place_of_t *place);
static ngx_uint_t ngx_http_idempotency_names(ngx_array_t *names,
    ngx_str_t *name);
static ngx_uint_t ngx_http_idempotency_machine_knows(
    const ngx_http_idempotency_machine_t *ma, ngx_str_t *name);


/* idempotency_serialize resource [wait=time] [queue=number] | off; */

char *
ngx_http_idempotency_serialize(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                               *rv;
    ngx_str_t                          *value;
    ngx_uint_t                          i;
    ngx_http_idempotency_guard_conf_t  *gc;

    gc = ngx_http_idempotency_guard_add(cf, conf,
                                        NGX_HTTP_IDEMPOTENCY_SERIALIZE, &rv);
    if (gc == NULL) {
        return rv;
    }

    value = cf->args->elts;

    gc->queue = NGX_HTTP_IDEMPOTENCY_QUEUE;

    for (i = 2; i < cf->args->nelts; i++) {
        rv = ngx_http_idempotency_serialize_parameter(cf, gc, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


/* What all have: a resource, or "off". */

static ngx_http_idempotency_guard_conf_t *
ngx_http_idempotency_guard_add(ngx_conf_t *cf, void *conf,
    ngx_http_idempotency_kind_e kind, char **rv)
{
    ngx_str_t                          *value;
    ngx_uint_t                          i;
    ngx_http_idempotency_loc_conf_t    *ilcf;
    ngx_http_idempotency_guard_conf_t  *gc;

    ilcf = conf;
    value = cf->args->elts;

    if (ilcf->guards[kind] != NGX_CONF_UNSET_PTR) {
        *rv = "is duplicate";
        return NULL;
    }

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        ilcf->guards[kind] = NULL;
        *rv = NGX_CONF_OK;
        return NULL;
    }

    *rv = NGX_CONF_ERROR;

    gc = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_guard_conf_t));
    if (gc == NULL) {
        return NULL;
    }

    /* a state has the name of its machine in front */

    i = (kind == NGX_HTTP_IDEMPOTENCY_STATE) ? 2 : 1;

    if (cf->args->nelts <= i) {
        *rv = "has too few arguments";
        return NULL;
    }

    gc->kind = kind;

    if (ngx_http_idempotency_guard_value(cf, &value[i], &gc->resource)
        != NGX_OK)
    {
        return NULL;
    }

    ilcf->guards[kind] = gc;

    return gc;
}


static ngx_int_t
ngx_http_idempotency_guard_value(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv)
{
    ngx_http_compile_complex_value_t  ccv;

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = cv;

    return ngx_http_compile_complex_value(&ccv);
}


static char *
ngx_http_idempotency_serialize_parameter(ngx_conf_t *cf,
    ngx_http_idempotency_guard_conf_t *gc, ngx_str_t *value)
{
    ngx_int_t  n;
    ngx_str_t  s;

    if (ngx_strncmp(value->data, "wait=", 5) == 0) {
        s.data = value->data + 5;
        s.len = value->len - 5;

        n = ngx_parse_time(&s, 0);

        if (n != NGX_ERROR && n != 0) {
            gc->wait = (ngx_msec_t) n;
            return NGX_CONF_OK;
        }
    }

    if (ngx_strncmp(value->data, "queue=", 6) == 0) {
        n = ngx_atoi(value->data + 6, value->len - 6);

        if (n > 0 && n <= NGX_IDEM_GUARD_QUEUE) {
            gc->queue = (ngx_uint_t) n;
            return NGX_CONF_OK;
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid parameter \"%V\"",
                       value);

    return NGX_CONF_ERROR;
}


/* idempotency_sequence resource number [late=reject|acknowledge] | off; */

char *
ngx_http_idempotency_sequence(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                               *rv;
    ngx_str_t                          *value;
    ngx_http_idempotency_guard_conf_t  *gc;

    gc = ngx_http_idempotency_guard_add(cf, conf,
                                        NGX_HTTP_IDEMPOTENCY_SEQUENCE, &rv);
    if (gc == NULL) {
        return rv;
    }

    value = cf->args->elts;

    if (cf->args->nelts < 3) {
        return "has no number";
    }

    if (ngx_http_idempotency_guard_value(cf, &value[2], &gc->target)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return (cf->args->nelts == 4)
               ? ngx_http_idempotency_late(cf, gc, &value[3]) : NGX_CONF_OK;
}


static char *
ngx_http_idempotency_late(ngx_conf_t *cf,
    ngx_http_idempotency_guard_conf_t *gc, ngx_str_t *value)
{
    if (ngx_strcmp(value->data, "late=reject") == 0) {
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "late=acknowledge") == 0) {
        gc->acknowledge = 1;
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid parameter \"%V\"",
                       value);

    return NGX_CONF_ERROR;
}


/* idempotency_state name resource target [late=reject|acknowledge] | off; */

char *
ngx_http_idempotency_state(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                               *rv;
    ngx_str_t                          *value;
    ngx_http_idempotency_guard_conf_t  *gc;

    gc = ngx_http_idempotency_guard_add(cf, conf, NGX_HTTP_IDEMPOTENCY_STATE,
                                        &rv);
    if (gc == NULL) {
        return rv;
    }

    value = cf->args->elts;

    if (cf->args->nelts < 4 || cf->args->nelts > 5) {
        return "takes a name, a resource, a target, and what to do about "
               "late ones";
    }

    gc->machine = ngx_http_idempotency_machine(cf, &value[1]);

    if (gc->machine == NULL
        || ngx_http_idempotency_guard_value(cf, &value[3], &gc->target)
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (gc->target.lengths == NULL
        && ngx_http_idempotency_machine_use(cf, gc->machine, &value[3])
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return (cf->args->nelts == 5)
               ? ngx_http_idempotency_late(cf, gc, &value[4]) : NGX_CONF_OK;
}


static ngx_int_t
ngx_http_idempotency_machine_use(ngx_conf_t *cf,
    ngx_http_idempotency_machine_t *ma, ngx_str_t *target)
{
    ngx_http_idempotency_use_t  *use;

    use = ngx_array_push(&ma->uses);
    if (use == NULL) {
        return NGX_ERROR;
    }

    use->target = *target;
    use->file = cf->conf_file->file.name;
    use->line = cf->conf_file->line;

    return NGX_OK;
}


/* idempotency_version resource [required] | off; */

char *
ngx_http_idempotency_version(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                               *rv;
    ngx_str_t                          *value;
    ngx_http_idempotency_guard_conf_t  *gc;

    gc = ngx_http_idempotency_guard_add(cf, conf,
                                        NGX_HTTP_IDEMPOTENCY_VERSION, &rv);
    if (gc == NULL) {
        return rv;
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[2].data, "required") != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid parameter \"%V\"",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    gc->required = 1;

    return NGX_CONF_OK;
}


/* idempotency_states name { state target ...; ... } */

char *
ngx_http_idempotency_states(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                            *rv;
    ngx_str_t                       *value;
    ngx_conf_t                       save;
    ngx_http_idempotency_machine_t  *ma;

    value = cf->args->elts;

    ma = ngx_http_idempotency_machine(cf, &value[1]);
    if (ma == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ma->declared) {
        return "is duplicate";
    }

    ma->declared = 1;

    save = *cf;
    cf->handler = ngx_http_idempotency_states_line;
    cf->handler_conf = (char *) ma;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    return (rv == NGX_CONF_OK) ? ngx_http_idempotency_states_check(cf, ma)
                               : rv;
}


/* The block may stand behind the first use of its name. */

static ngx_http_idempotency_machine_t *
ngx_http_idempotency_machine(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_uint_t                          i;
    ngx_http_idempotency_machine_t     *ma, **known;
    ngx_http_idempotency_main_conf_t   *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module);
    known = imcf->machines.elts;

    for (i = 0; i < imcf->machines.nelts; i++) {

        if (known[i]->name.len == name->len
            && ngx_strncmp(known[i]->name.data, name->data, name->len) == 0)
        {
            return known[i];
        }
    }

    ma = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_machine_t));
    known = ngx_array_push(&imcf->machines);

    if (ma == NULL
        || known == NULL
        || ngx_array_init(&ma->states, cf->pool, 4,
                          sizeof(ngx_http_idempotency_place_of_t))
           != NGX_OK
        || ngx_array_init(&ma->uses, cf->pool, 4,
                          sizeof(ngx_http_idempotency_use_t))
           != NGX_OK)
    {
        return NULL;
    }

    *known = ma;

    ma->name = *name;
    ma->file = cf->conf_file->file.name;
    ma->line = cf->conf_file->line;

    return ma;
}


static char *
ngx_http_idempotency_states_line(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf)
{
    ngx_str_t                        *value, *target;
    ngx_uint_t                        i;
    ngx_http_idempotency_machine_t   *ma;
    ngx_http_idempotency_place_of_t  *st;

    ma = conf;
    value = cf->args->elts;

    if (ngx_http_idempotency_machine_find(ma, &value[0])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "state \"%V\" is listed twice", &value[0]);
        return NGX_CONF_ERROR;
    }

    st = ngx_array_push(&ma->states);

    if (st == NULL
        || ngx_array_init(&st->targets, cf->pool, 4, sizeof(ngx_str_t))
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    st->name = value[0];

    if (cf->args->nelts == 1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "state \"%V\" leads nowhere, so it needs no line",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_idempotency_names(&st->targets, &value[i])
            || (value[i].len == st->name.len
                && ngx_strncmp(value[i].data, st->name.data, st->name.len)
                   == 0))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "state \"%V\" leads to \"%V\" twice, "
                               "or to itself", &value[0], &value[i]);
            return NGX_CONF_ERROR;
        }

        target = ngx_array_push(&st->targets);
        if (target == NULL) {
            return NGX_CONF_ERROR;
        }

        *target = value[i];
    }

    return NGX_CONF_OK;
}


/*
 * A state that leads nowhere needs no line of its own; one that nobody leads
 * to, and that is not the first, is a mistake.
 */

static char *
ngx_http_idempotency_states_check(ngx_conf_t *cf,
    ngx_http_idempotency_machine_t *ma)
{
    ngx_uint_t                        i, j;
    ngx_http_idempotency_place_of_t  *st;

    st = ma->states.elts;

    if (ma->states.nelts == 0) {
        return "has no state";
    }

    for (i = 0; i < ma->states.nelts; i++) {

        if (ngx_http_idempotency_is_long(&st[i])) {
            return "has a state with too long a name";
        }

        for (j = 0; j < ma->states.nelts; j++) {

            if (i == 0
                || ngx_http_idempotency_names(&st[j].targets, &st[i].name))
            {
                break;
            }
        }

        if (j == ma->states.nelts) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "no state of \"%V\" leads to \"%V\"",
                               &ma->name, &st[i].name);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static ngx_uint_t
ngx_http_idempotency_is_long(const ngx_http_idempotency_place_of_t *place)
{
    ngx_str_t   *s;
    ngx_uint_t   i;

    s = place->targets.elts;

    for (i = 0; i < place->targets.nelts; i++) {
        if (s[i].len > NGX_IDEM_GUARD_VALUE) {
            return 1;
        }
    }

    return place->name.len > NGX_IDEM_GUARD_VALUE;
}


static ngx_uint_t
ngx_http_idempotency_names(ngx_array_t *names, ngx_str_t *name)
{
    ngx_str_t   *s;
    ngx_uint_t   i;

    s = names->elts;

    for (i = 0; i < names->nelts; i++) {
        if (s[i].len == name->len
            && ngx_strncmp(s[i].data, name->data, name->len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


ngx_http_idempotency_place_of_t *
ngx_http_idempotency_machine_find(const ngx_http_idempotency_machine_t *ma,
    const ngx_str_t *name)
{
    ngx_uint_t                        i;
    ngx_http_idempotency_place_of_t  *st;

    st = ma->states.elts;

    for (i = 0; i < ma->states.nelts; i++) {

        if (st[i].name.len == name->len
            && ngx_strncmp(st[i].name.data, name->data, name->len) == 0)
        {
            return &st[i];
        }
    }

    return NULL;
}


ngx_uint_t
ngx_http_idempotency_machine_moves(const ngx_http_idempotency_machine_t *ma,
    const ngx_str_t *from, ngx_str_t *to)
{
    ngx_http_idempotency_place_of_t  *st;

    st = from->len ? ngx_http_idempotency_machine_find(ma, from)
                   : ma->states.elts;

    return st && ngx_http_idempotency_names(&st->targets, to);
}


static ngx_uint_t
ngx_http_idempotency_machine_knows(const ngx_http_idempotency_machine_t *ma,
    ngx_str_t *name)
{
    ngx_uint_t                        i;
    ngx_http_idempotency_place_of_t  *st;

    if (ngx_http_idempotency_machine_find(ma, name)) {
        return 1;
    }

    st = ma->states.elts;

    for (i = 0; i < ma->states.nelts; i++) {
        if (ngx_http_idempotency_names(&st[i].targets, name)) {
            return 1;
        }
    }

    return 0;
}


char *
ngx_http_idempotency_guards_end(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf)
{
    ngx_uint_t                        i, j;
    ngx_http_idempotency_use_t       *use;
    ngx_http_idempotency_machine_t  **ma;

    ma = imcf->machines.elts;

    for (i = 0; i < imcf->machines.nelts; i++) {

        if (!ma[i]->declared) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "idempotency_states \"%V\" is not declared in "
                          "%V:%ui", &ma[i]->name, &ma[i]->file, ma[i]->line);
            return NGX_CONF_ERROR;
        }

        use = ma[i]->uses.elts;

        for (j = 0; j < ma[i]->uses.nelts; j++) {

            if (!ngx_http_idempotency_machine_knows(ma[i], &use[j].target)) {
                ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                              "idempotency_states \"%V\" has no state \"%V\" "
                              "in %V:%ui", &ma[i]->name, &use[j].target,
                              &use[j].file, use[j].line);
                return NGX_CONF_ERROR;
            }
        }
    }

    return NGX_CONF_OK;
}


void
ngx_http_idempotency_guards_create(ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_IDEMPOTENCY_GUARDS; i++) {
        conf->guards[i] = NGX_CONF_UNSET_PTR;
    }
}


void
ngx_http_idempotency_guards_merge(ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_IDEMPOTENCY_GUARDS; i++) {
        ngx_conf_merge_ptr_value(conf->guards[i], prev->guards[i], NULL);

        if (conf->guards[i]) {
            conf->guarded = 1;
        }
    }
}
