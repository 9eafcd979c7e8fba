#include "tests/sim/serve_scenarios.h"

#define FULL_LINE_COUNT 16 /* of each tenant, while a capacity is measured */

static const struct serve_lengths prompts_chat = {LENGTH_LOGNORMAL, 200, 1500};
static const struct serve_lengths prompts_middle = {LENGTH_LOGNORMAL, 600, 2400};
static const struct serve_lengths outputs_150 = {LENGTH_GEOMETRIC, 150, 0};
static const struct serve_lengths outputs_200 = {LENGTH_GEOMETRIC, 200, 0};

/* max_tokens is four times what is taken on average: one in fifty meets it. */
static struct serve_habit habit_of(const char *name, struct serve_lengths prompt,
                                   struct serve_lengths output)
{
    return (struct serve_habit){.name = name,
                                .prompt = prompt,
                                .output = output,
                                .asks_tokens = (uint32_t)(4 * serve_length_mean(&output))};
}

static void add(struct serve_scenario *s, uint32_t n, struct serve_habit habit, double part,
                double capacity)
{
    habit.rate_per_s = part * capacity / serve_habit_tokens(&habit);
    for (uint32_t i = 0; i < n; i++)
        s->habits[s->n_habits++] = habit;
}

static struct serve_scenario chat_day(double capacity)
{
    struct serve_scenario s = {.name = "chat", .title = "short chat beside long prompts"};
    add(&s, 4, habit_of("light", prompts_chat, outputs_150), 0.3 / 4, capacity);
    struct serve_lengths outputs = {LENGTH_GEOMETRIC, 100, 0};
    struct serve_lengths prompts = {LENGTH_UNIFORM, 6000, 12000};
    struct serve_habit heavy = habit_of("heavy", prompts, outputs);
    heavy.is_heavy = true;
    add(&s, 1, heavy, 1, capacity);
    return s;
}

static struct serve_scenario bursts_day(double capacity)
{
    struct serve_scenario s = {.name = "bursts", .title = "steady tenants beside bursts"};
    struct serve_habit habit = habit_of("steady", prompts_middle, outputs_200);
    add(&s, 4, habit, 0.5 / 4, capacity);
    habit.name = "bursting";
    habit.is_heavy = true;
    habit.on_s = 20;
    habit.off_s = 60;
    add(&s, 1, habit, 3, capacity);
    return s;
}

static struct serve_scenario flood_day(double capacity)
{
    struct serve_scenario s = {.name = "flood", .title = "one of eight floods"};
    struct serve_habit habit = habit_of("equal", prompts_middle, outputs_200);
    add(&s, 7, habit, 0.1, capacity);
    habit.name = "flooding";
    habit.is_heavy = true;
    add(&s, 1, habit, 2, capacity);
    return s;
}

static struct serve_scenario weights_day(void)
{
    struct serve_scenario s = {.name = "weights", .title = "weights 1:2:3:4, all backlogged"};
    struct serve_habit habit = habit_of("weighted", prompts_middle, outputs_200);
    habit.coming = COMES_FULL;
    habit.line_count = FULL_LINE_COUNT;
    for (habit.weight = 1; habit.weight <= 4; habit.weight++)
        s.habits[s.n_habits++] = habit;
    return s;
}

static struct serve_scenario two_clients_day(void)
{
    struct serve_scenario s = {.name = "two_clients",
                               .title = "two clients, 90 and 180 a minute",
                               .duration_s = 300,
                               .pool_tokens = 10000};
    struct serve_lengths fixed = {LENGTH_FIXED, 256, 0};
    struct serve_habit habit = {.name = "client",
                                .coming = COMES_EVENLY,
                                .rate_per_s = 1.5,
                                .prompt = fixed,
                                .output = fixed,
                                .asks_tokens = 256};
    s.habits[0] = s.habits[1] = habit;
    s.habits[1].rate_per_s = 3;
    s.n_habits = 2;
    return s;
}

/* ---- those who mean ill ---- */

static struct serve_habit full(struct serve_habit habit)
{
    habit.coming = COMES_FULL;
    habit.line_count = 2 * FULL_LINE_COUNT;
    return habit;
}

static struct serve_habit long_prompts_habit(double capacity)
{
    struct serve_lengths prompts = {LENGTH_UNIFORM, 12000, 15000}, outputs = {LENGTH_FIXED, 8, 0};
    struct serve_habit habit = habit_of("long prompts", prompts, outputs);
    habit.rate_per_s = 2 * capacity / serve_habit_tokens(&habit);
    return habit;
}

static struct serve_habit one_token_habit(void)
{
    struct serve_lengths prompts = {LENGTH_FIXED, 16, 0}, outputs = {LENGTH_FIXED, 1, 0};
    struct serve_habit habit = habit_of("one token", prompts, outputs);
    habit.rate_per_s = 100;
    return habit;
}

static struct serve_habit hostile(enum serve_day day, double capacity)
{
    struct serve_habit habit = habit_of("neighbour", prompts_chat, outputs_150);
    struct serve_lengths short_outputs = {LENGTH_FIXED, 4, 0},
                         prompts_2000 = {LENGTH_FIXED, 2000, 0},
                         prompts_5000 = {LENGTH_FIXED, 5000, 0};
    switch (day) {
    case DAY_LONG_PROMPTS:
        return long_prompts_habit(capacity);
    case DAY_ONE_TOKEN:
        return one_token_habit();
    case DAY_LIARS:
        habit.name = "liar";
        habit.asks_tokens = 16384;
        return full(habit);
    case DAY_SURPRISES:
        habit = habit_of("surprises", prompts_chat, short_outputs);
        habit.long_every = 12;
        habit.long_tokens = 3000;
        habit.asks_tokens = 4000;
        return full(habit);
    case DAY_LEAVERS:
        habit = habit_of("leavers", prompts_2000, outputs_200);
        habit.rate_per_s = 20;
        habit.leaves_after_s = 0.5;
        return habit;
    case DAY_HOARDER:
        habit.name = "hoarder";
        habit.on_s = 20;
        habit.off_s = 100;
        habit.rate_per_s = 6 * capacity / serve_habit_tokens(&habit);
        return habit;
    case DAY_THRASH:
        habit = habit_of("thrash", prompts_5000, short_outputs);
        habit.documents = 64;
        habit.document_tokens = 4096;
        return full(habit);
    default:
        return full(habit);
    }
}

static struct serve_scenario hostile_day(enum serve_day day, double capacity)
{
    static const char *const names[DAYS_COUNT] = {
        [DAY_CALM] = "calm",
        [DAY_NEIGHBOUR] = "neighbour",
        [DAY_LONG_PROMPTS] = "long_prompts",
        [DAY_ONE_TOKEN] = "one_token",
        [DAY_LIARS] = "liars",
        [DAY_SURPRISES] = "surprises",
        [DAY_LEAVERS] = "leavers",
        [DAY_HOARDER] = "hoarder",
        [DAY_THRASH] = "thrash",
    };
    struct serve_scenario s = {.name = names[day], .title = names[day]};
    struct serve_habit honest = habit_of("honest", prompts_chat, outputs_150);
    if (day == DAY_THRASH) {
        honest.prompt = (struct serve_lengths){LENGTH_UNIFORM, 1200, 1600};
        honest.documents = 2;
        honest.document_tokens = 1024;
    }
    add(&s, 4, honest, 0.5 / 4, capacity);
    if (day == DAY_CALM)
        return s;
    s.habits[s.n_habits] = hostile(day, capacity);
    s.habits[s.n_habits++].is_heavy = true;
    return s;
}

struct serve_scenario serve_scenario_of(enum serve_day day, double capacity)
{
    struct serve_scenario s;
    switch (day) {
    case DAY_CHAT:
        s = chat_day(capacity);
        break;
    case DAY_BURSTS:
        s = bursts_day(capacity);
        break;
    case DAY_FLOOD:
        s = flood_day(capacity);
        break;
    case DAY_WEIGHTS:
        s = weights_day();
        break;
    case DAY_TWO_CLIENTS:
        s = two_clients_day();
        break;
    default:
        s = hostile_day(day, capacity);
        break;
    }
    if (s.duration_s <= 0)
        s.duration_s = 600;
    return s;
}

struct serve_scenario serve_scenario_full(enum serve_day day)
{
    struct serve_scenario s = serve_scenario_of(day, 1000);
    for (uint32_t i = 0; i < s.n_habits; i++) {
        s.habits[i].coming = COMES_FULL;
        s.habits[i].line_count = FULL_LINE_COUNT;
    }
    return s;
}
