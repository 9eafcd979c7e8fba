/*
 * A driver's library (libcuda.so.1) that refuses as the test wants: FAKE_CUDA_VERSION is what it
 * supports (13000: CUDA 13.0), FAKE_CUDA_INIT the code with which it starts, or "hang". It knows of
 * no card. What the CUDA runtime asks for beyond that is there and says "no device".
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_DEVICE 100
#define HANG_SECONDS 600

int cuDriverGetVersion(int *ret_version);
int cuInit(unsigned flags);
int cuDeviceGetCount(int *ret_count);
int cuGetProcAddress_v2(const char *name, void **ret_function, int version,
                        unsigned long long flags, int *ret_status);

static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int cuDriverGetVersion(int *ret_version)
{
    *ret_version = number("FAKE_CUDA_VERSION", 13000);
    return 0;
}

int cuInit(unsigned flags)
{
    const char *text = getenv("FAKE_CUDA_INIT");
    if (text && strcmp(text, "hang") == 0)
        sleep(HANG_SECONDS);
    return flags ? NO_DEVICE : number("FAKE_CUDA_INIT", 0);
}

int cuDeviceGetCount(int *ret_count)
{
    *ret_count = 0;
    return 0;
}

static int no_device(void)
{
    return NO_DEVICE;
}

int cuGetProcAddress_v2(const char *name, void **ret_function, int version,
                        unsigned long long flags, int *ret_status)
{
    static const struct {
        const char *name;
        int (*function)(void);
    } known[] = {{"cuInit", (int (*)(void))cuInit},
                 {"cuDriverGetVersion", (int (*)(void))cuDriverGetVersion},
                 {"cuDeviceGetCount", (int (*)(void))cuDeviceGetCount},
                 {"cuGetProcAddress", (int (*)(void))cuGetProcAddress_v2}};
    int (*found)(void) = no_device;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].name, name) == 0)
            found = known[i].function;
    memcpy(ret_function, &found, sizeof found);
    if (ret_status)
        *ret_status = 0;
    return version < 0 || flags == ~0ull ? NO_DEVICE : 0;
}
