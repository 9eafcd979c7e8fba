/*
 * A management library that says what the test wants: FAKE_NVML is a list of words NAME=NUMBER,
 * separated by commas: a function's short name and the code that it returns, or a number that it
 * tells. Built once whole, and once (FAKE_NVML_OLD) with what an old driver lacks left out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -1: the word is not there. */
static long long word(const char *name)
{
    const char *at = getenv("FAKE_NVML");
    size_t length = strlen(name);
    while (at && *at) {
        if (strncmp(at, name, length) == 0 && at[length] == '=')
            return strtoll(at + length + 1, NULL, 10);
        at = strchr(at, ',');
        at = at ? at + 1 : NULL;
    }
    return -1;
}

static int code(const char *name)
{
    long long asked = word(name);
    return asked < 0 ? 0 : (int)asked;
}

static unsigned long long number(const char *name, unsigned long long otherwise)
{
    long long asked = word(name);
    return asked < 0 ? otherwise : (unsigned long long)asked;
}

#ifdef FAKE_NVML_OLD
int nvmlInit(void);
int nvmlInit(void)
#else
int nvmlInit_v2(void);
int nvmlInit_v2(void)
#endif
{
    return code("init");
}

int nvmlShutdown(void);
int nvmlShutdown(void)
{
    return 0;
}

const char *nvmlErrorString(int result);
const char *nvmlErrorString(int result)
{
    return result == 3 ? "Not Supported" : result == 15 ? "GPU is lost\nfor good" : NULL;
}

#ifdef FAKE_NVML_OLD
#define FIND nvmlDeviceGetHandleByPciBusId
#else
#define FIND nvmlDeviceGetHandleByPciBusId_v2
#endif
int FIND(const char *bus, void **ret_card);
int FIND(const char *bus, void **ret_card)
{
    static int card;
    if (strcmp(bus, "00000000:00:00.0") != 0)
        return 6;
    *ret_card = &card;
    return code("find");
}

int nvmlSystemGetDriverVersion(char *text, unsigned size);
int nvmlSystemGetDriverVersion(char *text, unsigned size)
{
    snprintf(text, size, "580.65.06");
    return code("driver");
}

int nvmlDeviceGetName(void *card, char *text, unsigned size);
int nvmlDeviceGetName(void *card, char *text, unsigned size)
{
    (void)card;
    snprintf(text, size, "Fake\tCard");
    return code("name");
}

struct memory {
    unsigned long long all, unused, used;
};
int nvmlDeviceGetMemoryInfo(void *card, struct memory *ret);
int nvmlDeviceGetMemoryInfo(void *card, struct memory *ret)
{
    (void)card;
    *ret = (struct memory){80ull << 30, 70ull << 30, 10ull << 30};
    return code("memory");
}

int nvmlDeviceGetTemperature(void *card, int sensor, unsigned *ret);
int nvmlDeviceGetTemperature(void *card, int sensor, unsigned *ret)
{
    (void)card;
    *ret = (unsigned)number("celsius", 45);
    return sensor == 0 ? code("temperature") : 2;
}

int nvmlDeviceGetPowerUsage(void *card, unsigned *ret);
int nvmlDeviceGetPowerUsage(void *card, unsigned *ret)
{
    (void)card;
    *ret = 310500;
    return code("power");
}

#ifndef FAKE_NVML_OLD
int nvmlDeviceGetTotalEccErrors(void *card, int kind, int since, unsigned long long *ret);
int nvmlDeviceGetTotalEccErrors(void *card, int kind, int since, unsigned long long *ret)
{
    (void)card;
    *ret = kind == 0 ? number("corrected", 7) : number("uncorrected", 0);
    return since == 0 ? code("ecc") : 2;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *card, unsigned long long *ret);
int nvmlDeviceGetCurrentClocksEventReasons(void *card, unsigned long long *ret)
#else
int nvmlDeviceGetCurrentClocksThrottleReasons(void *card, unsigned long long *ret);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *card, unsigned long long *ret)
#endif
{
    (void)card;
    *ret = number("reasons", 0);
    return code("throttle");
}
