// GPU tests: of the stages as a call launches them, and of the backend through the public API.
#pragma once

#include "cuda/runner.h"

namespace tokensieve::cuda::test {

// Score, select, compact and scatter, over a table of shapes and settings (stages_cases.h) and
// crafted scores.
void test_stages(Runner& runner);

// Every case of backend_cases.h: kept sets and attention against the oracle, reruns, compact and
// scatter. `filter`: only cases whose name contains it. Runs several cases at once on streams of
// their own.
void test_cases(Runner& runner, int num_threads, const char* filter);

// Block masks x shapes (blocks_cases.h).
void test_blocks(Runner& runner, int num_threads, const char* filter);

// Block masks that the device estimates.
void test_estimates(Runner& runner, const char* filter);

// Sets that the caller gives (AttentionInputs::keep).
void test_given_sets(Runner& runner);

// Heads split over ranks, which share this device.
void test_ranks(Runner& runner);

// What is not a row of a table: packed lengths, graphs, streams, errors, the C ABI, workspaces.
void test_behaviour(Runner& runner);

}  // namespace tokensieve::cuda::test
