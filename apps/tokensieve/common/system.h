// Facts about this machine.
#pragma once

#include <cstdint>
#include <string>

namespace tokensieve::cli {

// Physical cores that this process may use: attention and matrix products gain nothing from
// hyper-threads.
int default_threads();

// Anonymous (heap and mapped scratch) memory of this process now; 0 when unknown. Mapped model
// weights are file pages and not counted.
int64_t anonymous_memory_bytes();

// What this process may still take: the machine's free memory and swap, the limits of its control
// group and of ulimit -v. INT64_MAX when unknown.
int64_t available_memory_bytes();

// "none", or the NVIDIA devices that the kernel driver lists.
std::string describe_gpus();

}  // namespace tokensieve::cli
