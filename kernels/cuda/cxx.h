/*
 * cxx: the project's C headers, for the only C++ files that there are.
 *
 * What C has and C++ has not is named here, so that the C headers stay C. Any thread.
 */
#pragma once

#ifndef _Noreturn
#define _Noreturn __attribute__((noreturn))
#endif

extern "C" {
#include "kernels/ops.h"
}
