#include "eval/tune_search.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace tokensieve::cli::eval {
namespace {

class Search {
 public:
  explicit Search(const TuneProblem& problem) : problem_(problem) {}

  Result<TuneOutcome> run() {
    TOKENSIEVE_RETURN_IF_ERROR(rank_layers());
    for (size_t rung = 0; rung < problem_.rungs; ++rung) {
      TOKENSIEVE_RETURN_IF_ERROR(find_largest_set(rung));
    }
    std::stable_sort(outcome_.feasible.begin(), outcome_.feasible.end(),
                     [](const Candidate& a, const Candidate& b) { return a.work < b.work; });
    return std::move(outcome_);
  }

 private:
  Status rank_layers() {
    std::vector<std::pair<double, int32_t>> harm;
    for (int32_t layer = 1; layer < problem_.num_layers; ++layer) {
      const Result<Candidate> alone = measure(problem_.base_rung, {layer});
      if (!alone.ok()) return alone.status();
      harm.emplace_back(alone->kl, layer);
    }
    std::stable_sort(harm.begin(), harm.end());
    for (const auto& [kl, layer] : harm) ranked_.push_back(layer);
    return {};
  }

  // Joint KL grows with the set, up to noise: bisection over its size.
  Status find_largest_set(size_t rung) {
    size_t fits = 0, most = ranked_.size();
    while (fits < most) {
      const size_t size = fits + (most - fits + 1) / 2;
      std::vector<int32_t> layers(ranked_.begin(), ranked_.begin() + static_cast<ptrdiff_t>(size));
      std::sort(layers.begin(), layers.end());
      Result<Candidate> joint = measure(rung, std::move(layers));
      if (!joint.ok()) return joint.status();
      if (joint->kl <= problem_.max_kl) {
        fits = size;
        outcome_.feasible.push_back(std::move(joint.value()));
      } else {
        most = size - 1;
      }
    }
    return {};
  }

  Result<Candidate> measure(size_t rung, std::vector<int32_t> layers) {
    const Result<double> kl = problem_.measure(rung, layers);
    if (!kl.ok()) return kl.status();
    const double share = static_cast<double>(layers.size()) / problem_.num_layers;
    Candidate candidate{.rung = rung,
                        .layers = std::move(layers),
                        .work = 1 - share * (1 - problem_.layer_work(rung)),
                        .kl = *kl};
    outcome_.measured.push_back(candidate);
    return candidate;
  }

  const TuneProblem& problem_;
  std::vector<int32_t> ranked_;  // most harmless first
  TuneOutcome outcome_;
};

}  // namespace

Result<TuneOutcome> search(const TuneProblem& problem) { return Search(problem).run(); }

int32_t most_measurements(const TuneProblem& problem) {
  const auto layers = static_cast<uint32_t>(std::max(1, problem.num_layers - 1));
  return static_cast<int32_t>(layers + problem.rungs * std::bit_width(layers));
}

}  // namespace tokensieve::cli::eval
