// The search of `tokensieve tune`: which layers run sparse, and with which selection. Knows nothing
// of models: it is given a way to measure.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "tokensieve/status.h"

namespace tokensieve::eval {

struct Candidate {
  size_t rung = 0;                   // of the ladder of selections
  std::vector<int32_t> layers;       // ascending; not empty
  size_t thin_rung = 0;              // of thin_layers
  std::vector<int32_t> thin_layers;  // ascending; those of `layers` that get a cheaper rung

  struct Effect {
    double kl = 0;    // KL(dense || sparse)
    double work = 1;  // computed / causal pairs of the whole model
  };
  Effect effect;  // measured
};

struct TuneProblem {
  std::vector<int32_t> layers;  // that can run sparse, ascending
  size_t rungs = 1;
  size_t base_rung = 0;  // single layers are ranked with this one
  double max_kl = 0;
  std::function<Result<Candidate::Effect>(const Candidate&)> measure;
};

struct TuneOutcome {
  std::vector<Candidate> measured;  // in the order of measurement
  std::vector<Candidate> feasible;  // the sets of several layers within max_kl, cheapest first
};

// Ranks layers by the KL of each alone, then finds for every rung the largest set of the most
// harmless ones whose joint KL stays within max_kl, and of that set the most layers that may have
// the rung that saved most a layer instead. Smaller sets that it passed are kept too.
Result<TuneOutcome> search(const TuneProblem& problem);

// Most measurements that search() makes: for a progress bar.
int32_t most_measurements(const TuneProblem& problem);

}  // namespace tokensieve::eval
