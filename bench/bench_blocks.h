// `tokensieve bench --blocks`: block masks alone and over selected tokens.
#pragma once

#include <functional>

#include "timer.h"

namespace tokensieve::bench {

// Rows of settings.blocks on a prompt: alone and with each keep ratio, against dense attention, the
// tokens alone and the blocks alone, all timed here; and what estimating and attending cost.
Status bench_blocks(const Settings& settings, const Timer& timer, Inputs& inputs,
                    const std::function<void(const Row&)>& emit);

}  // namespace tokensieve::bench
