// What a search of `tune` compares: made and checked before anything is measured, and named the
// same way in every run file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/llama_session.h"
#include "common/sparse_layers.h"
#include "eval/config.h"
#include "eval/schema.h"
#include "eval/tune_search.h"
#include "tune_command.h"

namespace tokensieve::cli {

// Damage is measured on text, and on the right answers of tasks from one fact to several hops.
inline const std::vector<std::string> kKlTasks = {"text", "multi_key", "variable_tracking"};

struct TuneSetup {
  std::vector<int32_t> lengths;  // ascending
  int32_t cases;
  std::vector<eval::Config> rungs;
  double budget;  // points
  SparseLayers layers;
};

// All but the layers.
Result<TuneSetup> make_tune_setup(const TuneOptions& options, const LlamaModel& model);

eval::HeaderLine tune_header(const TuneOptions& options, const TuneSetup& setup,
                             const LlamaModel& model, const std::string& system);

// What was measured, under names by which a later call finds it.
eval::TuneStep tune_line(const TuneSetup& setup, const eval::Candidate& candidate, size_t step);
std::string measurement_key(const eval::TuneStep& line);

// For people.
std::string describe(const TuneSetup& setup, const eval::Candidate& candidate);

}  // namespace tokensieve::cli
