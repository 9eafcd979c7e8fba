#include "kernels/cuda/nvml.h"

#include <ctype.h>
#include <dlfcn.h>

/* The library's own numbers and shapes, as its interface has had them since version 2. */
#define NVML_OK 0
#define SENSOR_GPU 0
#define ECC_CORRECTED 0
#define ECC_UNCORRECTED 1
#define ECC_SINCE_DRIVER 0
#define THROTTLE_POWER (0x4u | 0x80u) /* the software's power cap; the supply's brake */
#define THROTTLE_HEAT (0x20u | 0x40u) /* the software's limit; the hardware's */
#define THROTTLE_OTHER 0x8u           /* the hardware's slowdown */

struct card_memory {
    unsigned long long all_bytes, free_bytes, used_bytes;
};

typedef void *card_handle;

/* A name that newer drivers have comes first, what older ones call it second. */
struct nvml {
    void *library;
    card_handle card;
    int (*begin)(void);
    int (*end)(void);
    const char *(*error_text)(int);
    int (*find)(const char *, card_handle *);
    int (*driver)(char *, unsigned);
    int (*name)(card_handle, char *, unsigned);
    int (*memory)(card_handle, struct card_memory *);
    int (*temperature)(card_handle, int, unsigned *);
    int (*power)(card_handle, unsigned *);
    int (*ecc)(card_handle, int, int, unsigned long long *);
    int (*throttle)(card_handle, unsigned long long *);
};

static void symbols_find(struct nvml *nvml)
{
    const struct {
        void *to; /* a pointer to a function */
        const char *names[2];
    } table[] = {
        {&nvml->begin, {"nvmlInit_v2", "nvmlInit"}},
        {&nvml->end, {"nvmlShutdown", NULL}},
        {&nvml->error_text, {"nvmlErrorString", NULL}},
        {&nvml->find, {"nvmlDeviceGetHandleByPciBusId_v2", "nvmlDeviceGetHandleByPciBusId"}},
        {&nvml->driver, {"nvmlSystemGetDriverVersion", NULL}},
        {&nvml->name, {"nvmlDeviceGetName", NULL}},
        {&nvml->memory, {"nvmlDeviceGetMemoryInfo", NULL}},
        {&nvml->temperature, {"nvmlDeviceGetTemperature", NULL}},
        {&nvml->power, {"nvmlDeviceGetPowerUsage", NULL}},
        {&nvml->ecc, {"nvmlDeviceGetTotalEccErrors", NULL}},
        {&nvml->throttle,
         {"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"}},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        void *symbol = NULL;
        for (size_t j = 0; j < array_count(table[i].names) && !symbol; j++)
            if (table[i].names[j])
                symbol = dlsym(nvml->library, table[i].names[j]);
        memcpy(table[i].to, &symbol, sizeof symbol);
    }
}

/* Somebody else's text into a log. */
static void text_clean(char *text)
{
    for (; *text; text++)
        if (!isprint((unsigned char)*text))
            *text = '?';
}

static const char *words_of(const struct nvml *nvml, int code, char *text, size_t text_bytes)
{
    const char *words = nvml->error_text ? nvml->error_text(code) : NULL;
    snprintf(text, text_bytes, "%.60s (%d)", words ? words : "error", code);
    text_clean(text);
    return text;
}

enum status nvml_open(const char *library, const char *bus, struct nvml **ret_nvml,
                      struct error *error)
{
    struct nvml *nvml = calloc(1, sizeof *nvml);
    char text[96];
    int code = NVML_OK;
    if (!nvml)
        return error_set(error, STATUS_EXHAUSTED, "%s: no memory", library);
    nvml->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!nvml->library) {
        free(nvml);
        return error_set(error, STATUS_UNAVAILABLE,
                         "%s is not there: the card's temperature, power and errors are not known",
                         library);
    }
    symbols_find(nvml);
    bool complete = nvml->begin && nvml->end && nvml->find;
    bool begun = false;
    if (complete) {
        code = nvml->begin();
        begun = code == NVML_OK;
    }
    if (begun)
        code = nvml->find(bus, &nvml->card);
    if (begun && code == NVML_OK) {
        *ret_nvml = nvml;
        return STATUS_OK;
    }
    enum status status =
        !complete
            ? error_set(error, STATUS_UNAVAILABLE, "%s lacks the functions to begin with", library)
            : error_set(error, STATUS_UNAVAILABLE, "%s: %s: %s", library,
                        begun ? "the card is not found" : "it does not start",
                        words_of(nvml, code, text, sizeof text));
    if (begun)
        nvml->end();
    dlclose(nvml->library);
    free(nvml);
    return status;
}

void nvml_close(struct nvml *nvml)
{
    if (!nvml)
        return;
    nvml->end();
    dlclose(nvml->library);
    free(nvml);
}

/* The first thing that is missing is told. */
static void missing_note(const struct nvml *nvml, struct device_facts *facts, const char *what,
                         bool has_function, int code)
{
    char text[96] = "its library has no function for it";
    if (facts->note[0])
        return;
    if (has_function)
        words_of(nvml, code, text, sizeof text);
    snprintf(facts->note, sizeof facts->note, "the card does not tell %s: %s", what, text);
}

static void ask_texts(const struct nvml *nvml, struct device_facts *facts)
{
    char text[96] = "";
    if (nvml->name && nvml->name(nvml->card, text, sizeof text) == NVML_OK) {
        text[sizeof text - 1] = '\0';
        snprintf(facts->name, sizeof facts->name, "%.63s", text);
    }
    text[0] = '\0';
    if (nvml->driver && nvml->driver(text, sizeof text) == NVML_OK) {
        text[sizeof text - 1] = '\0';
        snprintf(facts->driver, sizeof facts->driver, "%.31s", text);
    }
    text_clean(facts->name);
    text_clean(facts->driver);
}

static void ask_ecc(const struct nvml *nvml, struct device_facts *facts)
{
    unsigned long long corrected = 0, uncorrected = 0;
    int code = nvml->ecc ? nvml->ecc(nvml->card, ECC_CORRECTED, ECC_SINCE_DRIVER, &corrected) : 0;
    if (nvml->ecc && code == NVML_OK)
        code = nvml->ecc(nvml->card, ECC_UNCORRECTED, ECC_SINCE_DRIVER, &uncorrected);
    if (!nvml->ecc || code != NVML_OK) {
        missing_note(nvml, facts, "its memory errors", nvml->ecc, code);
        return;
    }
    facts->ecc_corrected_total = corrected;
    facts->ecc_uncorrected_total = uncorrected;
    facts->known |= DEVICE_ECC;
}

static void ask_throttle(const struct nvml *nvml, struct device_facts *facts)
{
    unsigned long long reasons = 0;
    int code = nvml->throttle ? nvml->throttle(nvml->card, &reasons) : 0;
    if (!nvml->throttle || code != NVML_OK) {
        missing_note(nvml, facts, "why its clock is low", nvml->throttle, code);
        return;
    }
    facts->throttle = (reasons & THROTTLE_POWER ? DEVICE_THROTTLE_POWER : 0u) |
                      (reasons & THROTTLE_HEAT ? DEVICE_THROTTLE_HEAT : 0u) |
                      (reasons & THROTTLE_OTHER ? DEVICE_THROTTLE_OTHER : 0u);
    facts->known |= DEVICE_THROTTLE;
}

void nvml_ask(struct nvml *nvml, struct device_facts *ret_facts)
{
    struct device_facts facts = {0};
    struct card_memory memory = {0};
    unsigned number = 0;
    ask_texts(nvml, &facts);
    int code = nvml->memory ? nvml->memory(nvml->card, &memory) : 0;
    if (nvml->memory && code == NVML_OK) {
        facts.memory_bytes = memory.all_bytes;
        facts.memory_free_bytes = memory.free_bytes;
        facts.known |= DEVICE_MEMORY;
    } else {
        missing_note(nvml, &facts, "its memory", nvml->memory, code);
    }
    code = nvml->temperature ? nvml->temperature(nvml->card, SENSOR_GPU, &number) : 0;
    if (nvml->temperature && code == NVML_OK) {
        facts.temperature_celsius = number;
        facts.known |= DEVICE_TEMPERATURE;
    } else {
        missing_note(nvml, &facts, "its temperature", nvml->temperature, code);
    }
    code = nvml->power ? nvml->power(nvml->card, &number) : 0;
    if (nvml->power && code == NVML_OK) {
        facts.power_milliwatts = number;
        facts.known |= DEVICE_POWER;
    } else {
        missing_note(nvml, &facts, "its power", nvml->power, code);
    }
    ask_ecc(nvml, &facts);
    ask_throttle(nvml, &facts);
    *ret_facts = facts;
}
