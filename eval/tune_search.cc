#include "eval/tune_search.h"

#include <algorithm>
#include <bit>

namespace tokensieve::eval {
namespace {

class Search {
 public:
  explicit Search(const TuneProblem& problem) : problem_(problem), saved_(problem.rungs, 0.0) {}

  Result<TuneOutcome> run() {
    TOKENSIEVE_RETURN_IF_ERROR(rank_layers());
    std::vector<size_t> sizes;
    for (size_t rung = 0; rung < problem_.rungs; ++rung) {
      const Result<size_t> size = find_largest(ranked_.size(), [&](size_t count) {
        return Candidate{.rung = rung, .layers = most_harmless(count)};
      });
      if (!size.ok()) return size.status();
      sizes.push_back(*size);
    }
    for (size_t rung = 0; rung < problem_.rungs; ++rung) {
      TOKENSIEVE_RETURN_IF_ERROR(thin_out(rung, sizes[rung]));
    }
    std::stable_sort(outcome_.feasible.begin(), outcome_.feasible.end(),
                     [](const Candidate& a, const Candidate& b) {
                       return a.effect.work < b.effect.work;
                     });
    return std::move(outcome_);
  }

 private:
  Status rank_layers() {
    std::vector<std::pair<double, int32_t>> harm;
    for (const int32_t layer : problem_.layers) {
      const Result<Candidate> alone = measure({.rung = problem_.base_rung, .layers = {layer}});
      if (!alone.ok()) return alone.status();
      harm.emplace_back(alone->effect.kl, layer);
    }
    std::stable_sort(harm.begin(), harm.end());
    for (const auto& [kl, layer] : harm) ranked_.push_back(layer);
    return {};
  }

  // In the largest set of a rung.
  Status thin_out(size_t rung, size_t size) {
    const auto cheapest =
        static_cast<size_t>(std::max_element(saved_.begin(), saved_.end()) - saved_.begin());
    if (size < 2 || saved_[rung] >= saved_[cheapest]) return {};
    const auto thinned = [&](size_t thin) {
      return Candidate{.rung = rung,
                       .layers = most_harmless(size),
                       .thin_rung = cheapest,
                       .thin_layers = most_harmless(thin)};
    };
    return find_largest(size - 1, thinned).status();  // all of them: a set of the cheapest rung
  }

  // The largest size up to `most` whose candidate stays within max_kl; 0: none. Joint KL grows with
  // the size, up to noise: bisection.
  template <typename MakeCandidate>
  Result<size_t> find_largest(size_t most, const MakeCandidate& candidate_of) {
    size_t fits = 0;
    while (fits < most) {
      const size_t size = fits + (most - fits + 1) / 2;
      Result<Candidate> joint = measure(candidate_of(size));
      if (!joint.ok()) return joint.status();
      if (joint->effect.kl <= problem_.max_kl) {
        fits = size;
        outcome_.feasible.push_back(std::move(joint.value()));
      } else {
        most = size - 1;
      }
    }
    return fits;
  }

  std::vector<int32_t> most_harmless(size_t count) const {
    std::vector<int32_t> layers(ranked_.begin(), ranked_.begin() + static_cast<ptrdiff_t>(count));
    std::sort(layers.begin(), layers.end());
    return layers;
  }

  Result<Candidate> measure(Candidate candidate) {
    const Result<Candidate::Effect> effect = problem_.measure(candidate);
    if (!effect.ok()) return effect.status();
    candidate.effect = *effect;
    if (candidate.thin_layers.empty()) {
      saved_[candidate.rung] =
          (1 - effect->work) / static_cast<double>(candidate.layers.size());
    }
    outcome_.measured.push_back(candidate);
    return candidate;
  }

  const TuneProblem& problem_;
  std::vector<double> saved_;    // work, by a layer of each rung: of the set measured last
  std::vector<int32_t> ranked_;  // most harmless first
  TuneOutcome outcome_;
};

}  // namespace

Result<TuneOutcome> search(const TuneProblem& problem) { return Search(problem).run(); }

int32_t most_measurements(const TuneProblem& problem) {
  const auto layers = static_cast<uint32_t>(std::max<size_t>(1, problem.layers.size()));
  // Sets of every rung, thinner ones of all but one.
  const size_t bisections = 2 * problem.rungs - 1;
  return static_cast<int32_t>(layers + bisections * std::bit_width(layers));
}

}  // namespace tokensieve::eval
