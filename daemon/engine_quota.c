/* What each call has been promised, and what it used: the engine's side of the quotas. */
#include "base/clock.h"
#include "daemon/engine_private.h"

enum status engine_quota_open(struct engine *engine, struct error *error)
{
    if (!engine->options.quota)
        return STATUS_OK;
    engine->accounts = calloc(engine->lives_count, sizeof *engine->accounts);
    if (!engine->accounts)
        return error_set(error, STATUS_EXHAUSTED, "no memory for the accounts of %u requests",
                         engine->lives_count);
    for (uint32_t i = 0; i < engine->lives_count; i++)
        engine->accounts[i].next_free = i + 1;
    return quota_lease_open(engine->options.quota, &engine->lease, error);
}

/* The thread is gone, every call has ended. */
void engine_quota_close(struct engine *engine)
{
    const struct quota_time time = {.now_ns = clock_now_ns(), .wall_ns = clock_wall_ns()};
    if (engine->lease)
        quota_lease_close(engine->lease, &time);
    engine->lease = NULL;
    free(engine->accounts);
}

enum status engine_quota_reserve(struct engine *engine, struct request *request, uint64_t now_ns,
                                 uint32_t *ret_account)
{
    *ret_account = ENGINE_NO_ACCOUNT;
    if (!engine->lease)
        return STATUS_OK;
    if (engine->free_account == engine->lives_count) {
        error_set(&request->error, STATUS_EXHAUSTED, "model %s has as many requests as it can",
                  engine->options.model->name);
        request->error.retry_ns = NS_PER_S;
        return STATUS_EXHAUSTED;
    }
    struct account *account = &engine->accounts[engine->free_account];
    const struct quota_time time = {.now_ns = now_ns, .wall_ns = clock_wall_ns()};
    const struct quota_ask ask = {.tenant = request->tenant,
                                  .prompt_tokens = request->n_ids,
                                  .output_tokens_max = request->output_tokens_max,
                                  .choices = request->n_choices,
                                  .is_open = request->output_is_open};
    enum status status =
        quota_reserve(engine->lease, &ask, &time, &account->reservation, &request->error);
    if (status != STATUS_OK)
        return status;
    *ret_account = engine->free_account;
    engine->free_account = account->next_free;
    account->n_open = request->n_choices;
    account->output_tokens = 0;
    for (; request; request = request->next_choice) {
        request->output_tokens_max = account->reservation.output_tokens_max;
        request->is_cut = account->reservation.is_cut;
    }
    return STATUS_OK;
}

static void account_free(struct engine *engine, uint32_t account)
{
    engine->accounts[account].next_free = engine->free_account;
    engine->free_account = account;
}

void engine_quota_undo(struct engine *engine, uint32_t account)
{
    if (account == ENGINE_NO_ACCOUNT)
        return;
    quota_undo(engine->lease, &engine->accounts[account].reservation);
    account_free(engine, account);
}

void engine_quota_begin(struct engine *engine, uint32_t account)
{
    if (account != ENGINE_NO_ACCOUNT)
        quota_begin(engine->lease, &engine->accounts[account].reservation);
}

/* A call that never had a step is charged no token; the prompt of one that had is whole, whatever
 * the cache had of it. */
void engine_quota_end(struct engine *engine, uint32_t index, uint32_t output_tokens)
{
    if (index == ENGINE_NO_ACCOUNT)
        return;
    struct account *account = &engine->accounts[index];
    CHECK(account->n_open > 0);
    account->output_tokens += output_tokens;
    if (--account->n_open > 0)
        return;
    const struct reservation *r = &account->reservation;
    uint32_t prompt_tokens = r->is_queued ? 0 : r->prompt_tokens;
    quota_settle(engine->lease, &account->reservation, prompt_tokens, account->output_tokens,
                 clock_now_ns());
    account_free(engine, index);
}

void engine_quota_turn(struct engine *engine, uint64_t now_ns)
{
    const struct quota_time time = {.now_ns = now_ns, .wall_ns = clock_wall_ns()};
    if (engine->lease)
        quota_lease_turn(engine->lease, &time);
}
