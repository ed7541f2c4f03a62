// The vertical-slash estimator of the oracle against a naive form of its definition, known answers,
// and the rules of the official index.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ref/estimated.h"

namespace tokensieve {
namespace {

using namespace test;

BlockConfig config(int64_t verticals, int64_t slashes, double slash_ratio = 0) {
  return {.pattern = BlockPattern::kVerticalSlash, .verticals = verticals, .slashes = slashes,
          .slash_ratio = slash_ratio};
}

ref::Masks masks_of(const Plan& plan, const AttentionInputs& in) {
  return ref::block_masks(plan, in, 0, ref::select_sequence(plan, in, 0, {}));
}

using Lines = std::vector<int32_t>;

Lines first_lines(int32_t count) {
  Lines all(count);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// By mass, the first `forced` before all others; neighbours in mass are far apart here.
Lines largest(std::vector<long double> mass, int64_t count, int64_t forced) {
  for (int64_t i = 0; i < std::min<int64_t>(forced, std::ssize(mass)); ++i) mass[i] = 1e6L - i;
  Lines order = first_lines(static_cast<int32_t>(mass.size()));
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return mass[a] > mass[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

struct Chosen {
  Lines columns, distances;
};

Chosen naive_lines(const AttentionCase& c, const CaseData& data, int64_t h, int64_t verticals,
                   int64_t slashes) {
  const int64_t n = c.shape.seqlen_kv, first = n - c.shape.seqlen_q;
  const int64_t kv_head = h * c.shape.num_kv_heads / c.shape.num_q_heads;
  std::vector<long double> by_key(n), by_distance(n);
  for (int64_t row = std::max(first, n - 64); row < n; ++row) {
    std::vector<long double> e(row + 1);
    for (int64_t j = 0; j <= row; ++j) {
      long double product = 0;
      for (int64_t d = 0; d < c.shape.head_dim; ++d) {
        product += data.q.at(0, row - first, h, d) * data.k.at(0, j, kv_head, d);
      }
      e[j] = std::exp(product / std::sqrt(static_cast<long double>(c.shape.head_dim)));
    }
    const long double sum = std::accumulate(e.begin(), e.end(), 0.0L);
    for (int64_t j = 0; j <= row; ++j) {
      by_key[j] += e[j] / sum;
      by_distance[row - j] += e[j] / sum;
    }
  }
  return {largest(by_key, verticals, 30), largest(by_distance, slashes, 100)};
}

// Tiles that hold a pair of one of the distances.
Tiles tiles_with(const TileGrid& grid, const Lines& distances) {
  Tiles tiles;
  for (int64_t t = 0; t < grid.row_tiles(); ++t) {
    std::vector<bool>& row = tiles.emplace_back(grid.end(t), false);
    for (int64_t p = grid.row_begin(t); p < grid.row_end(t); ++p) {
      for (const int32_t distance : distances) {
        if (distance <= p) row[(p - distance) / kBlock] = true;
      }
    }
  }
  return tiles;
}

TEST(RefVerticalSlash, IsItsDefinition) {
  for (auto [queries, keys] : {std::pair{700, 700}, {1100, 1100}, {333, 900}, {40, 557}}) {
    const AttentionCase c = prompt(queries, keys);
    const CaseData data = test::make_data(c, 41);
    const Plan plan = plan_of(c, config(70, 130));
    const ref::Masks masks = masks_of(plan, data.inputs());
    for (int64_t h = 0; h < 4; ++h) {
      SCOPED_TRACE(std::to_string(queries) + " of " + std::to_string(keys));
      const Chosen expected = naive_lines(c, data, h, 70, 130);
      EXPECT_EQ(masks.columns[h], expected.columns);
      EXPECT_EQ(tiles_of_head(plan, data.inputs(), h),
                tiles_with({keys - queries, keys}, expected.distances));
    }
  }
}

// All attend to key 333, from distances 603 to 666 in the newest 64 rows.
TEST(RefVerticalSlash, FollowsOneToken) {
  for (int64_t queries : {1000, 700, 616, 128}) {
    const AttentionCase c = prompt(queries, 1000, Content::kOneHot);
    const CaseData data = test::make_data(c, 42);
    const TileGrid grid = {1000 - queries, 1000};
    const auto check = [&](int64_t verticals, int64_t slashes, Lines columns, Lines distances) {
      const Plan plan = plan_of(c, config(verticals, slashes));
      EXPECT_EQ(masks_of(plan, data.inputs()).columns[1], columns);
      EXPECT_EQ(tiles_of_head(plan, data.inputs(), 1), tiles_with(grid, distances));
    };
    Lines columns = first_lines(30), distances = first_lines(100);
    check(0, 0, columns, first_lines(50));
    check(30, 99, columns, first_lines(99));
    columns.push_back(333);
    for (int32_t d = 603; d <= 666; ++d) distances.push_back(d);
    check(31, 164, columns, distances);
    check(2000, 2000, first_lines(1000), first_lines(1000));
  }
}

// Equal keys have equal mass in every column, and nearer distances have no less.
TEST(RefVerticalSlash, TiesGoToTheLowestColumnAndTheNearestDistance) {
  const AttentionCase c = prompt(900, 900, Content::kTies);
  const CaseData data = test::make_data(c, 43);
  const Plan plan = plan_of(c, config(77, 300));
  EXPECT_EQ(masks_of(plan, data.inputs()).columns[0], first_lines(77));
  EXPECT_EQ(tiles_of_head(plan, data.inputs(), 0), tiles_with({0, 900}, first_lines(300)));
}

TEST(RefVerticalSlash, SizesAreShortOfTheLengthOrEachHeadsOwn) {
  const auto expect = [](const BlockConfig& blocks, const int32_t* own, int64_t keys,
                         int64_t verticals, int64_t slashes) {
    const VerticalSlashSizes sizes = vertical_slash_sizes(blocks, own, keys);
    EXPECT_EQ(sizes.verticals, verticals);
    EXPECT_EQ(sizes.slashes, slashes);
  };
  expect({}, nullptr, 100000, 1000, 6096);
  expect({}, nullptr, 5000, 1000, 5000);
  expect({}, nullptr, 17, 17, 17);
  expect(config(0, 0), nullptr, 5000, 30, 50);
  expect(config(1, 1, 0.1), nullptr, 4096, 81, 327);  // of 409
  expect(config(1, 1, 0.1), nullptr, 400, 30, 50);    // of 40
  const int32_t own[] = {7, 512};
  expect(config(60, 2000), own, 5000, 30, 512);

  const AttentionCase c = prompt(900, 900);
  const CaseData data = test::make_data(c, 44);
  AttentionInputs in = data.inputs();
  const std::vector<int32_t> sizes = {0, 0, 40, 900, 60, 200, 50, 150};
  in.block_sizes = sizes.data();
  const Plan plan = plan_of(c, config(60, 100));
  for (int64_t h = 0; h < 4; ++h) {
    const Plan alone = plan_of(c, config(sizes[2 * h], sizes[2 * h + 1]));
    EXPECT_EQ(masks_of(plan, in).columns[h], masks_of(alone, data.inputs()).columns[h]);
    EXPECT_EQ(tiles_of_head(plan, in, h), tiles_of_head(alone, data.inputs(), h));
  }
}

// The official index has for every 64 rows the 64 keys of each distance (of those rows, without the
// blocks by which merged ranges overshoot) and the columns before them.
TEST(RefVerticalSlash, HoldsTheOfficialPairs) {
  const AttentionCase c = prompt(1088, 1088);
  const CaseData data = test::make_data(c, 45);
  const Plan plan = plan_of(c, config(60, 140));
  const ref::Masks masks = masks_of(plan, data.inputs());
  const Chosen lines = naive_lines(c, data, 2, 60, 140);
  for (int64_t end = 64; end <= 1088; end += 64) {
    for (int64_t row = end - 64; row < end; ++row) {
      std::vector<int32_t> seen = first_lines(static_cast<int32_t>(row + 1));
      ref::hide_tiles(plan, masks, 2, {}, row, seen);
      std::vector<bool> visited(row + 1);
      for (const int32_t j : seen) visited[j] = true;
      for (const int64_t distance : lines.distances) {
        const int64_t stop = std::max<int64_t>(end - distance, 64);
        for (int64_t j = stop - 64; distance < end && j <= std::min(stop - 1, row); ++j) {
          ASSERT_TRUE(visited[j]) << row << ", " << j;
        }
      }
      for (const int32_t j : lines.columns) ASSERT_TRUE(j > row || visited[j]) << row << ", " << j;
    }
  }
}

// A column is a 128th of a tile where no tile holds it.
TEST(RefVerticalSlash, DensityCountsColumns) {
  const AttentionCase c = prompt(1024, 1024, Content::kOneHot);
  const CaseData data = test::make_data(c, 46);
  // Distances 0 to 99: the diagonal and the tile before, 15 of 36. Columns 0 to 29 and 333: of tile
  // 0 in rows 2 to 7, of tile 2 in rows 4 to 7.
  const Plan plan = plan_of(c, config(31, 100));
  EXPECT_DOUBLE_EQ(masks_of(plan, data.inputs()).density, (15 + (6 * 30 + 4) / 128.0) / 36);
}

}  // namespace
}  // namespace tokensieve
