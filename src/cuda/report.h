// What a run has to say, before and after the device has worked.
#pragma once

#include <cstddef>
#include <span>

#include "tokensieve/attention.h"

namespace tokensieve::cuda {

// What is known before the device has worked.
RunReport early_report(const Plan& plan);

// Waits for the stream and reads what the run left in the workspace.
Status read_report(const Plan& plan, std::span<std::byte> workspace, void* stream,
                   RunReport& report);

}  // namespace tokensieve::cuda
