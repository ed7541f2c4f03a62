// The search of `tokensieve tune`, on a made-up model whose harms are known.
#include "eval/tune_search.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace tokensieve::eval {
namespace {

// Of 9 layers, l alone costs 0.001 * l on rung 0 (keeps more) and twice that on rung 1; harms add
// up. A layer has .4 of its work on rung 0 and .1 on rung 1.
TuneProblem problem(double max_kl, int* calls) {
  return {.layers = {1, 2, 3, 4, 5, 6, 7, 8},
          .rungs = 2,
          .base_rung = 0,
          .max_kl = max_kl,
          .measure = [calls](const Candidate& candidate) -> Result<Candidate::Effect> {
            ++*calls;
            Candidate::Effect effect;
            for (const int32_t layer : candidate.layers) {
              const auto& thin = candidate.thin_layers;
              const bool is_thin = std::find(thin.begin(), thin.end(), layer) != thin.end();
              const size_t rung = is_thin ? candidate.thin_rung : candidate.rung;
              effect.kl += 0.001 * layer * (rung == 0 ? 1 : 2);
              effect.work -= (rung == 0 ? 0.6 : 0.9) / 9;
            }
            return effect;
          }};
}

TEST(EvalTuneSearch, FindsTheLargestHarmlessSetOfEveryRung) {
  int calls = 0;
  const TuneProblem p = problem(0.0101, &calls);
  const Result<TuneOutcome> outcome = search(p);
  ASSERT_TRUE(outcome.ok());
  ASSERT_EQ(outcome->feasible.size(), 2u);
  // Rung 0: 1+2+3+4 = 10; rung 1: 2+4 = 6, and 12 is too much.
  const Candidate& cheap = outcome->feasible[0];
  EXPECT_EQ(cheap.rung, 0u);
  EXPECT_EQ(cheap.layers, (std::vector<int32_t>{1, 2, 3, 4}));
  EXPECT_NEAR(cheap.effect.kl, 0.010, 1e-12);
  EXPECT_NEAR(cheap.effect.work, 1 - 4.0 / 9 * 0.6, 1e-12);
  EXPECT_EQ(outcome->feasible[1].layers, (std::vector<int32_t>{1, 2}));
  EXPECT_LE(cheap.effect.work, outcome->feasible[1].effect.work);
  EXPECT_EQ(outcome->measured.size(), static_cast<size_t>(calls));
  EXPECT_LE(calls, most_measurements(p));
}

TEST(EvalTuneSearch, TheMostHarmlessLayersGetTheCheapestRung) {
  int calls = 0;
  // Rung 0 on 1-5 costs 15; twice as much on 1 and 2 makes 18, on 3 too 21.
  const TuneProblem p = problem(0.0181, &calls);
  const Result<TuneOutcome> outcome = search(p);
  ASSERT_TRUE(outcome.ok());
  const Candidate& best = outcome->feasible[0];
  EXPECT_EQ(best.rung, 0u);
  EXPECT_EQ(best.layers, (std::vector<int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(best.thin_rung, 1u);
  EXPECT_EQ(best.thin_layers, (std::vector<int32_t>{1, 2}));
  EXPECT_NEAR(best.effect.kl, 0.018, 1e-12);
  EXPECT_NEAR(best.effect.work, (4 + 3 * 0.4 + 2 * 0.1) / 9, 1e-12);
  for (const Candidate& candidate : outcome->feasible) EXPECT_LE(candidate.effect.kl, p.max_kl);
  EXPECT_LE(calls, most_measurements(p));
}

TEST(EvalTuneSearch, AllLayersOrNone) {
  int calls = 0;
  const Result<TuneOutcome> all = search(problem(1, &calls));
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->feasible[0].rung, 1u) << "the cheaper rung is first";
  EXPECT_EQ(all->feasible[0].layers.size(), 8u);
  const Result<TuneOutcome> none = search(problem(1e-6, &calls));
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->feasible.empty());
}

TEST(EvalTuneSearch, OnlyLayersThatCanRunSparseAreTried) {
  int calls = 0;
  TuneProblem p = problem(1, &calls);
  p.layers = {3, 6};  // the others slide
  const Result<TuneOutcome> outcome = search(p);
  ASSERT_TRUE(outcome.ok());
  for (const Candidate& candidate : outcome->measured) {
    for (const int32_t layer : candidate.layers) EXPECT_EQ(layer % 3, 0);
  }
  EXPECT_EQ(outcome->feasible[0].layers, p.layers);
  EXPECT_NEAR(outcome->feasible[0].effect.work, (7 + 2 * 0.1) / 9, 1e-12) << "dense ones count";
  EXPECT_LE(calls, most_measurements(p));
}

TEST(EvalTuneSearch, AFailedMeasurementEndsIt) {
  int calls = 0;
  TuneProblem p = problem(1, &calls);
  p.measure = [&](const Candidate&) -> Result<Candidate::Effect> {
    if (++calls < 5) return Candidate::Effect{.kl = 0.1};
    return Status::error(StatusCode::kCancelled, "cancelled");
  };
  const Result<TuneOutcome> outcome = search(p);
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.status().code(), StatusCode::kCancelled);
  EXPECT_EQ(calls, 5);
}

}  // namespace
}  // namespace tokensieve::eval
