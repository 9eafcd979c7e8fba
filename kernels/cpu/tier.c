#include "kernels/cpu/tier.h"

/* Best first. */
static const struct tier *const tiers[] = {
#if defined(__x86_64__)
    &tier_avx512_bf16, &tier_avx512_vnni, &tier_avx512, &tier_avx2_vnni, &tier_avx2,
#endif
    &tier_scalar,
};

static enum status tier_refuse(const char *name, const char *from, bool known, struct error *error)
{
    char have[128] = "";
    for (size_t i = 0; i < array_count(tiers); i++) {
        size_t used = strlen(have);
        if (tiers[i]->supported())
            snprintf(have + used, sizeof have - used, "%s%s", used ? ", " : "", tiers[i]->name);
    }
    return error_set(error, STATUS_UNSUPPORTED, "%s: CPU tier '%s' is %s; this CPU has: %s", from,
                     name, known ? "not supported by this CPU" : "not known", have);
}

enum status tier_find(const char *name, const struct tier **ret_tier, struct error *error)
{
    const char *from = "device options";
    if (!name) {
        from = "environment variable GALERNE_CPU_TIER";
        name = getenv("GALERNE_CPU_TIER");
        if (name && !*name)
            name = NULL;
    }
    for (size_t i = 0; i < array_count(tiers); i++) {
        if (name && strcmp(name, tiers[i]->name) != 0)
            continue;
        if (tiers[i]->supported()) {
            *ret_tier = tiers[i];
            return STATUS_OK;
        }
        if (name)
            return tier_refuse(name, from, true, error);
    }
    CHECK(name != NULL); /* scalar always is supported */
    return tier_refuse(name, from, false, error);
}
