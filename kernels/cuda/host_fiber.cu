#include "kernels/cuda/cxx.h"
#include "kernels/cuda/host_fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#define ASAN 1
#elif defined(__has_feature)
#define ASAN __has_feature(address_sanitizer)
#else
#define ASAN 0
#endif

#if ASAN
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/* A fiber that ended left its frames by no return: their bounds are still marked in the stack. */
static void stack_clean(struct host_fiber *fiber)
{
#if ASAN
    __asan_unpoison_memory_region(fiber->stack, HOST_STACK_BYTES);
#endif
    (void)fiber;
}

#if defined(__x86_64__)

extern "C" __attribute__((visibility("hidden"))) void host_fiber_swap(void **ret_from, void *to);

/* What a call must keep goes on the old stack; what the new one kept comes back. */
__asm__(".text\n"
        ".hidden host_fiber_swap\n"
        ".globl host_fiber_swap\n"
        ".type host_fiber_swap, @function\n"
        "host_fiber_swap:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n"
        "    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n"
        "    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size host_fiber_swap, .-host_fiber_swap\n");

/* A fiber begins in the middle of a swap: six registers, then where to return. Its argument is
 * found through a register that the swap restores. */
extern "C" __attribute__((visibility("hidden"))) void host_fiber_start(void);
__asm__(".text\n"
        ".hidden host_fiber_start\n"
        ".globl host_fiber_start\n"
        ".type host_fiber_start, @function\n"
        "host_fiber_start:\n"
        "    movq %rbx, %rdi\n"
        "    jmp *%r12\n"
        ".size host_fiber_start, .-host_fiber_start\n");

void host_fiber_begin(struct host_fiber *fiber, void (*entry)(void *), void *argument)
{
    stack_clean(fiber);
    void **top = (void **)((char *)fiber->stack + HOST_STACK_BYTES);
    *--top = NULL; /* where entry would return */
    *--top = (void *)host_fiber_start;
    *--top = NULL;          /* rbp: ends a backtrace */
    *--top = argument;      /* rbx */
    *--top = (void *)entry; /* r12 */
    *--top = NULL;
    *--top = NULL;
    *--top = NULL;
    fiber->context = top;
}

static void swap(struct host_fiber *from, struct host_fiber *to)
{
    host_fiber_swap(&from->context, to->context);
}

#else

#include <ucontext.h>

static void entry_call(unsigned low, unsigned high)
{
    struct host_fiber *fiber = (struct host_fiber *)((uintptr_t)high << 32 | low);
    fiber->entry(fiber->argument);
}

static ucontext_t *context_of(struct host_fiber *fiber)
{
    if (!fiber->context)
        fiber->context = calloc(1, sizeof(ucontext_t)); /* kept with the stack */
    CHECK(fiber->context);
    return (ucontext_t *)fiber->context;
}

void host_fiber_begin(struct host_fiber *fiber, void (*entry)(void *), void *argument)
{
    stack_clean(fiber);
    ucontext_t *context = context_of(fiber);
    fiber->entry = entry;
    fiber->argument = argument;
    CHECK(getcontext(context) == 0);
    context->uc_stack.ss_sp = fiber->stack;
    context->uc_stack.ss_size = HOST_STACK_BYTES;
    context->uc_link = NULL;
    makecontext(context, (void (*)())entry_call, 2, (unsigned)(uintptr_t)fiber,
                (unsigned)((uintptr_t)fiber >> 32));
}

static void swap(struct host_fiber *from, struct host_fiber *to)
{
    CHECK(swapcontext(context_of(from), context_of(to)) == 0);
}

#endif

#if ASAN
/* The OS thread's stack; asking for it reads a file, so it is asked for once. */
static void own_stack(void **ret_bottom, size_t *ret_bytes)
{
    static __thread void *bottom;
    static __thread size_t bytes;
    if (!bottom) {
        pthread_attr_t attributes;
        CHECK(pthread_getattr_np(pthread_self(), &attributes) == 0);
        pthread_attr_getstack(&attributes, &bottom, &bytes);
        pthread_attr_destroy(&attributes);
    }
    *ret_bottom = bottom;
    *ret_bytes = bytes;
}
#endif

void host_fiber_switch(struct host_fiber *from, struct host_fiber *to)
{
#if ASAN
    void *bottom = to->stack;
    size_t bytes = HOST_STACK_BYTES;
    if (!bottom)
        own_stack(&bottom, &bytes);
    __sanitizer_start_switch_fiber(&from->fake, bottom, bytes);
#endif
    swap(from, to);
#if ASAN
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}

/* Kernels have no frames in a stack of AddressSanitizer's (meson.build), but what they call has. */
void host_fiber_entered(struct host_fiber *self)
{
#if ASAN
    __sanitizer_finish_switch_fiber(self->fake, NULL, NULL);
#endif
    (void)self;
}
