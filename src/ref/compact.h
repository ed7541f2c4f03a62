// Stage compact: gather the kept rows.
#pragma once

#include "tokensieve/attention.h"

namespace tokensieve::ref {

Status compact(const Plan& plan, const TensorView& x, const KeepSet& keep,
               const TensorView& compacted, const RunOptions& options);

}  // namespace tokensieve::ref
