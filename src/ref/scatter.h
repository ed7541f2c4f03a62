// Stage scatter: put computed rows back; every other row becomes zero.
#pragma once

#include "tokensieve/attention.h"

namespace tokensieve::ref {

Status scatter(const Plan& plan, const TensorView& compacted, const KeepSet& keep,
               const TensorView& out, const RunOptions& options);

}  // namespace tokensieve::ref
