/*
 * nvml: what the driver's management library says of a card: memory, temperature, power, errors.
 *
 * The library, libnvidia-ml.so.1, comes with the driver; it is looked up when a card is opened and
 * its functions are called by prototypes of our own, so that nothing of it is needed to build. What
 * is missing (the library, a function of a newer or older driver, a right) leaves the numbers that
 * it would give unknown, and nothing else changes. The words of the library are copied, bounded and
 * cleaned of what is not printable.
 *
 * Owned by the device; one thread at a time. A call may take some milliseconds.
 */
#pragma once

#include "kernels/ops.h"

#define NVML_LIBRARY "libnvidia-ml.so.1"

struct nvml;

/* Opens `library` and finds the card at PCI address `bus`. UNAVAILABLE: why nothing is known, in
 * one line: no library, a library that lacks what is needed to begin, an error code in its words.
 */
enum status nvml_open(const char *library, const char *bus, struct nvml **ret_nvml,
                      struct error *error);
/* NULL is allowed. */
void nvml_close(struct nvml *nvml);

/* Fills in what is known and sets its bit in `known`; `note` names the first thing that the library
 * does not tell, if something: others of its kind it may be silent about. */
void nvml_ask(struct nvml *nvml, struct device_facts *ret_facts);
