// The two products of an item as steps, so that they can be dealt out between rows of a softmax. A
// step is 32 terms of a unit of 32 x 32 results.
#if defined(TOKENSIEVE_CPU_TILES_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENSIEVE_CPU_TILES_PRODUCTS_INL_H_
#undef TOKENSIEVE_CPU_TILES_PRODUCTS_INL_H_
#else
#define TOKENSIEVE_CPU_TILES_PRODUCTS_INL_H_
#endif

#include "cpu/tiles/items.h"
#include "cpu/tiles/pack_tiles-inl.h"

TOKENSIEVE_BEFORE_TILES();
namespace tokensieve::cpu {
namespace HWY_NAMESPACE {

// A unit's operands at one step. Tiles of A lie a_next elements apart, their rows a_stride bytes.
struct Operands {
  const uint16_t *a_hi, *a_lo;
  int64_t a_next, a_stride;
  const uint16_t *b_hi, *b_lo;  // b_lo null: B has no lo
  int64_t b_next;
};

template <bool kSplit, typename Matrix>
HWY_INLINE void multiply(Matrix& matrix, const Operands& x) {
  matrix.load_a(x.a_hi, x.a_hi + x.a_next, x.a_stride);
  if (kSplit && x.b_lo != nullptr) {
    matrix.load_b(x.b_lo, x.b_lo + x.b_next);
    matrix.multiply();
  }
  matrix.load_b(x.b_hi, x.b_hi + x.b_next);
  matrix.multiply();
  if constexpr (kSplit) {
    matrix.load_a(x.a_lo, x.a_lo + x.a_next, x.a_stride);
    matrix.multiply();
  }
}

// S = Q K^T of an item, or O += P V; a unit's steps follow one another.
template <bool kSplit, typename Matrix>
class Products {
 public:
  Products() = default;

  static Products logits(const Part& part, const Item& item, const TileBlocks& blocks, float* s) {
    Products x;
    const int depth = blocks.dims / 32;
    const uint16_t* k = blocks.at(item.block) + item.first / 16 * depth * kTileElements;
    x.accumulate_ = false;
    x.units_ = item.cols / 32, x.steps_ = depth;
    x.unit_ = x.start_ = {part.qh, part.ql, int64_t{depth} * kTileElements, 64,
                          k, lo_of(blocks, k), int64_t{depth} * kTileElements};
    x.a_step_ = kTileElements, x.b_step_ = kTileElements;
    x.b_unit_ = 2 * int64_t{depth} * kTileElements;
    x.c_ = s, x.c_stride_ = kTileStride;
    return x;
  }

  static Products values(const Part& part, const Item& item, const TileBlocks& blocks,
                         const float* s) {
    Products x;
    const uint16_t* p = reinterpret_cast<const uint16_t*>(s);
    const uint16_t* v =
        blocks.at(item.block) + blocks.half() + value_tile(item.first / 32, 0);
    x.accumulate_ = true;
    x.units_ = blocks.dims / 32, x.steps_ = item.cols / 32;
    x.unit_ = x.start_ = {p, p + 32, 16 * 2 * kTileStride, 4 * kTileStride,
                          v, lo_of(blocks, v), kTileElements};
    x.a_step_ = 64, x.b_step_ = 2 * kTileElements;
    x.b_unit_ = value_tile(0, 32);
    x.c_ = part.o, x.c_stride_ = blocks.dims;
    return x;
  }

  int total() const { return units_ * steps_; }

  void step(Matrix& matrix) {
    if (step_ == 0) accumulate_ ? matrix.load_c(c_, c_stride_) : matrix.zero();
    multiply<kSplit>(matrix, unit_);
    advance(unit_, a_step_, b_step_);
    if (++step_ < steps_) return;
    matrix.store_c(c_, c_stride_);
    step_ = 0;
    c_ += 32;
    advance(start_, 0, b_unit_);
    unit_ = start_;
  }

 private:
  static const uint16_t* lo_of(const TileBlocks& blocks, const uint16_t* hi) {
    return blocks.lo ? hi + 2 * blocks.half() : nullptr;
  }
  static void advance(Operands& x, int64_t a, int64_t b) {
    x.a_hi += a, x.a_lo += a, x.b_hi += b;
    if (x.b_lo != nullptr) x.b_lo += b;
  }

  int units_ = 0, steps_ = 0, step_ = 0;
  bool accumulate_ = false;
  Operands unit_ = {}, start_ = {};
  int64_t a_step_ = 0, b_step_ = 0, b_unit_ = 0;
  float* c_ = nullptr;
  int64_t c_stride_ = 0;
};

// P V of one item, then Q K^T of another, dealt out in shares.
template <bool kSplit, typename Matrix>
class Work {
 public:
  Work(Matrix& matrix, const Products<kSplit, Matrix>& values,
       const Products<kSplit, Matrix>& logits)
      : matrix_(matrix), values_(values), logits_(logits),
        value_steps_(values.total()), total_(value_steps_ + logits.total()) {}

  // So that `share` of `all` is done.
  void run_to(int share, int all) { run_to_step(total_ * share / all); }
  void finish_values() { run_to_step(value_steps_); }
  void finish() { run_to_step(total_); }

 private:
  void run_to_step(int end) {
    for (; done_ < end; ++done_) (done_ < value_steps_ ? values_ : logits_).step(matrix_);
  }

  Matrix& matrix_;
  Products<kSplit, Matrix> values_, logits_;
  int value_steps_, total_, done_ = 0;
};

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
