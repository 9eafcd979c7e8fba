#include "daemon/text_pool.h"

#include <pthread.h>

#include "base/clock.h"
#include "daemon/digest.h"
#include "daemon/front.h"
#include "text/utf8.h"

/* One second: a full inlet or queue empties at the pace of whole requests. */
#define INLET_RETRY_NS NS_PER_S

struct text_thread {
    struct text_pool *pool;
    uint32_t index; /* inlet of every engine, producer of every outlet */
    pthread_t thread;
    struct tokenizer_scratch *scratch[CONFIG_MODELS_MAX];
};

struct text_pool {
    struct front *front;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct request *first, *last; /* linked by next_free */
    bool stopping;
    uint32_t n_threads, n_started;
    struct text_thread threads[]; /* [n_threads] */
};

/* ---- what a prompt becomes ---- */

static enum status prompt_encode(struct text_thread *self, struct request *request,
                                 const struct text_piece *pieces, size_t n_pieces, bool adds_bos,
                                 struct error *error)
{
    struct served_model *model = request->model;
    const struct tokenizer_info *info = tokenizer_info(model->tokenizer);
    size_t bos_count = adds_bos && info->adds_bos && info->bos_id != TOKEN_NONE ? 1 : 0;
    const uint32_t *ids;
    size_t n;
    enum status status =
        tokenizer_encode(model->tokenizer, self->scratch[model->index], pieces, n_pieces,
                         model->context_tokens - bos_count, &ids, &n, error);
    if (status == STATUS_EXHAUSTED) /* the same prompt will never fit: not a matter of time */
        return error_field(error, "prompt",
                           "the prompt has more than %u tokens, the context of model %s: "
                           "shorten it",
                           model->context_tokens, model->config->name);
    if (status != STATUS_OK)
        return status;
    uint32_t *copy = arena_alloc(&request->arena, (n + bos_count) * sizeof *copy);
    if (!copy)
        return error_set(error, STATUS_EXHAUSTED, "the prompt needs more memory than a call may");
    if (bos_count)
        copy[0] = info->bos_id;
    memcpy(copy + bos_count, ids, n * sizeof *copy);
    request->ids = copy;
    request->n_ids = (uint32_t)(n + bos_count);
    return STATUS_OK;
}

static enum status prompt_from_text(struct text_thread *self, struct request *request,
                                    struct error *error)
{
    struct text_piece piece = {.text = request->prompt.text, .parse_special = false};
    if (piece.text.size_bytes == 0)
        return error_field(error, "text", "the prompt is empty: give at least one character");
    return prompt_encode(self, request, &piece, 1, request->prompt.add_special, error);
}

static enum status prompt_from_chat(struct text_thread *self, struct request *request,
                                    struct error *error)
{
    const struct text_piece *pieces;
    size_t n_pieces;
    enum status status =
        chat_render(request->model->chat, request->prompt.messages, request->prompt.n_messages,
                    &request->arena, &pieces, &n_pieces, error);
    if (status != STATUS_OK)
        return status;
    return prompt_encode(self, request, pieces, n_pieces, false, error);
}

static enum status prompt_from_ids(struct request *request, struct error *error)
{
    uint32_t vocab = request->model->plan.arch.vocab;
    const struct prompt *prompt = &request->prompt;
    if (prompt->n_ids == 0)
        return error_field(error, "token_ids", "the prompt is empty: give at least one token id");
    for (uint32_t i = 0; i < prompt->n_ids; i++)
        if (prompt->ids[i] >= vocab)
            return error_field(error, "token_ids",
                               "token id %u at index %u is out of range: model %s has ids 0 to %u",
                               prompt->ids[i], i, request->model->config->name, vocab - 1);
    request->ids = prompt->ids;
    request->n_ids = prompt->n_ids;
    return STATUS_OK;
}

static enum status prompt_tokens(struct text_thread *self, struct request *request,
                                 struct error *error)
{
    switch (request->prompt.kind) {
    case PROMPT_TEXT:
        return prompt_from_text(self, request, error);
    case PROMPT_CHAT:
        return prompt_from_chat(self, request, error);
    case PROMPT_TOKENS:
        return prompt_from_ids(request, error);
    case PROMPT_NONE:
        break;
    }
    return error_field(error, "prompt", "no prompt: give text, chat or token_ids");
}

/* ---- the kinds of request ---- */

static enum status generate_prepare(struct text_thread *self, struct request *request,
                                    struct error *error)
{
    enum status status = prompt_tokens(self, request, error);
    if (status != STATUS_OK)
        return status;
    const struct served_model *model = request->model;
    if (request->n_ids >= model->context_tokens)
        return error_field(error, "prompt",
                           "the prompt has %u tokens and model %s has a context of %u: no room "
                           "for output; shorten it",
                           request->n_ids, model->config->name, model->context_tokens);
    uint32_t room = model->context_tokens - request->n_ids;
    if (request->output_tokens_max > room)
        return error_field(error, "max_tokens",
                           "the prompt has %u tokens and max_tokens is %u, together over the "
                           "context of model %s, %u: at most %u fit",
                           request->n_ids, request->output_tokens_max, model->config->name,
                           model->context_tokens, room);
    request->output_is_open = request->output_tokens_max == 0;
    if (request->output_is_open)
        request->output_tokens_max = room;

    uint32_t block_tokens = model->config->block_tokens;
    request->n_digests = request->n_ids / block_tokens;
    struct sched_digest *digests =
        arena_alloc(&request->arena, request->n_digests * sizeof *digests);
    if (!digests)
        return error_set(error, STATUS_EXHAUSTED, "the prompt needs more memory than a call may");
    struct digest_scope scope =
        digest_scope_of(model->plan.digest, model->plan.kv_dtype, request->cache_domain);
    digest_blocks(&scope, request->ids, request->n_ids, block_tokens, digests);
    request->digests = digests;
    return STATUS_OK;
}

static enum status detokenize(struct request *request, struct error *error)
{
    enum status status = STATUS_OK;
    if (request->prompt.n_ids > 0)
        status = prompt_from_ids(request, error);
    if (status != STATUS_OK)
        return status;
    const struct tokenizer *tokenizer = request->model->tokenizer;
    size_t size_bytes = 0;
    for (uint32_t i = 0; i < request->n_ids; i++)
        size_bytes +=
            tokenizer_token_bytes(tokenizer, request->ids[i], request->with_special).size_bytes;
    char *text = arena_alloc(&request->arena, size_bytes);
    if (!text)
        return error_set(error, STATUS_EXHAUSTED, "the text needs more memory than a call may");
    size_t used = 0;
    for (uint32_t i = 0; i < request->n_ids; i++) {
        struct span bytes =
            tokenizer_token_bytes(tokenizer, request->ids[i], request->with_special);
        if (bytes.size_bytes)
            memcpy(text + used, bytes.data, bytes.size_bytes);
        used += bytes.size_bytes;
    }
    request->text = (struct span){.data = text, .size_bytes = used};
    return STATUS_OK;
}

static struct walker walker_of(const struct text_thread *self)
{
    return (struct walker){.trace = self->pool->front->trace, .writer = self->index};
}

static void end_here(struct text_thread *self, struct request *request, enum status status)
{
    uint64_t now_ns = clock_now_ns();
    walk_add(walker_of(self), request->id, WALK_ENDED, now_ns, 0);
    struct outlet *outlet = request->outlet;
    struct error error = request->error;
    for (struct request *next; request; request = next) { /* it may be gone after its END */
        next = request->next_choice;
        request->error = error;
        request->finish = status == STATUS_OK ? FINISH_STOP : FINISH_ERROR;
        request->ended_ns = now_ns;
        outlet_end(outlet, self->index, request);
    }
    outlet_flush(outlet, self->index);
}

static void text_work(struct text_thread *self, struct request *request)
{
    struct error *error = &request->error;
    enum status status = STATUS_OK;
    walk_add(walker_of(self), request->id, WALK_TEXT, clock_now_ns(), 0);
    if (atomic_load(&request->cancelled)) {
        status = error_set(error, STATUS_CANCELLED, "cancelled by the caller");
    } else {
        switch (request->kind) {
        case REQUEST_GENERATE:
            status = generate_prepare(self, request, error);
            break;
        case REQUEST_TOKENIZE:
            status = prompt_tokens(self, request, error);
            break;
        case REQUEST_DETOKENIZE:
            status = detokenize(request, error);
            break;
        case REQUEST_EMBED:
            status = error_set(error, STATUS_UNSUPPORTED, "embeddings are not supported yet");
            break;
        }
    }
    request->tokenized_ns = clock_now_ns();
    request_choices_share(request);
    if (status == STATUS_OK)
        walk_add(walker_of(self), request->id, WALK_TOKENIZED, request->tokenized_ns,
                 request->n_ids);
    if (status == STATUS_OK && request->kind == REQUEST_GENERATE) /* it may be gone afterwards */
        walk_add(walker_of(self), request->id, WALK_INLET, request->tokenized_ns, 0);
    if (status != STATUS_OK || request->kind != REQUEST_GENERATE) {
        end_here(self, request, status);
    } else if (!engine_submit(request->model->engine, self->index, request)) {
        status = error_set(error, STATUS_EXHAUSTED, "model %s has no room for more requests now",
                           request->model->config->name);
        error->retry_ns = INLET_RETRY_NS;
        end_here(self, request, status);
    }
}

/* ---- the queue ---- */

static struct request *queue_take(struct text_pool *pool, bool *ret_stopping)
{
    pthread_mutex_lock(&pool->lock);
    while (!pool->first && !pool->stopping)
        pthread_cond_wait(&pool->more, &pool->lock);
    struct request *request = pool->first;
    if (request) {
        pool->first = request->next_free;
        if (!pool->first)
            pool->last = NULL;
    }
    *ret_stopping = pool->stopping;
    pthread_mutex_unlock(&pool->lock);
    return request;
}

static void *text_thread_run(void *argument)
{
    struct text_thread *self = argument;
    for (;;) {
        bool stopping;
        struct request *request = queue_take(self->pool, &stopping);
        if (!request)
            return NULL;
        if (stopping)
            end_here(self, request,
                     error_set(&request->error, STATUS_UNAVAILABLE, "the daemon is stopping"));
        else
            text_work(self, request);
    }
}

void text_pool_submit(struct text_pool *pool, struct request *request)
{
    request->next_free = NULL;
    pthread_mutex_lock(&pool->lock);
    if (pool->last)
        pool->last->next_free = request;
    else
        pool->first = request;
    pool->last = request;
    pthread_cond_signal(&pool->more);
    pthread_mutex_unlock(&pool->lock);
}

enum status text_pool_open(struct front *front, struct text_pool **ret_pool, struct error *error)
{
    uint32_t n = front->config->text_threads_count;
    enum status status = STATUS_OK;
    struct text_pool *pool = calloc(1, sizeof *pool + n * sizeof pool->threads[0]);
    if (!pool)
        return error_set(error, STATUS_EXHAUSTED, "no memory for %u text threads", n);
    pool->front = front;
    pool->n_threads = n;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->more, NULL);
    for (uint32_t i = 0; i < n; i++) {
        struct text_thread *thread = &pool->threads[i];
        thread->pool = pool;
        thread->index = i;
        for (uint32_t m = 0; status == STATUS_OK && m < front->n_models; m++)
            status = tokenizer_scratch_new(front->models[m].tokenizer, &thread->scratch[m], error);
        if (status == STATUS_OK &&
            pthread_create(&thread->thread, NULL, text_thread_run, thread) != 0)
            status = error_set(error, STATUS_EXHAUSTED, "text thread %u did not start", i);
        if (status != STATUS_OK)
            break;
        pool->n_started++;
    }
    if (status != STATUS_OK) {
        text_pool_close(pool);
        return status;
    }
    *ret_pool = pool;
    return STATUS_OK;
}

void text_pool_close(struct text_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->more);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->n_started; i++)
        pthread_join(pool->threads[i].thread, NULL);
    for (uint32_t i = 0; i < pool->n_threads; i++)
        for (uint32_t m = 0; m < CONFIG_MODELS_MAX; m++)
            if (pool->threads[i].scratch[m])
                tokenizer_scratch_free(pool->threads[i].scratch[m]);
    pthread_cond_destroy(&pool->more);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
