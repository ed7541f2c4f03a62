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

// S = Q K^T of an item, or O += P V; a unit's steps follow one another.
template <bool kSplit, typename Matrix>
class Products {
 public:
  Products() = default;

  static Products logits(const Part& part, const Item& item, const TileBlocks& blocks, float* s) {
    const int depth = blocks.dims / 32;
    const int64_t row = int64_t{depth} * kTileElements;  // of matrix tiles, of Q and of K
    Products x(blocks, item.cols / 32, depth);
    x.a_ = part.qh, x.a_next_ = row, x.a_stride_ = 64, x.a_lo_ = part.ql - part.qh;
    x.b_ = blocks.at(item.block) + item.first / 16 * row, x.b_next_ = row;
    x.a_step_ = x.b_step_ = kTileElements;
    x.b_unit_ = 2 * row;
    x.c_ = s, x.c_stride_ = kTileStride;
    return x;
  }

  static Products values(const Part& part, const Item& item, const TileBlocks& blocks,
                         const float* s) {
    Products x(blocks, blocks.dims / 32, item.cols / 32);
    x.accumulate_ = true;
    x.a_ = reinterpret_cast<const uint16_t*>(s), x.a_lo_ = 32;
    x.a_next_ = 16 * 2 * kTileStride, x.a_stride_ = 4 * kTileStride;
    x.b_ = blocks.at(item.block) + blocks.half() + value_tile(item.first / 32, 0);
    x.b_next_ = kTileElements;
    x.a_step_ = 64, x.b_step_ = 2 * kTileElements;
    x.b_unit_ = value_tile(0, 32);
    x.c_ = part.o, x.c_stride_ = blocks.dims;
    return x;
  }

  int total() const { return units_ * steps_; }

  // Operands of the next step.
  void load(Matrix& matrix) const {
    matrix.load_a(a_, a_ + a_next_, a_stride_);
    const uint16_t* b = kSplit ? b_ + b_lo_ : b_;
    matrix.load_b(b, b + b_next_);
    if constexpr (kSplit) return;  // whose three products a step leave time enough
    const int64_t ahead = step_ + 1 < steps_ ? b_step_ : b_unit_ - (steps_ - 1) * b_step_;
    matrix.prefetch(b_ + ahead);
    matrix.prefetch(b_ + ahead + b_next_);
  }

  void step(Matrix& matrix) {
    if (step_ == 0) accumulate_ ? matrix.load_c(c_, c_stride_) : matrix.zero();
    multiply(matrix);
    ++step_;
    a_ += a_step_, b_ += b_step_;
    if (step_ == steps_) {
      matrix.store_c(c_, c_stride_);
      step_ = 0;
      a_ -= steps_ * a_step_, b_ += b_unit_ - steps_ * b_step_;
      c_ += 32;
    }
  }

 private:
  Products(const TileBlocks& blocks, int units, int steps)
      : units_(units), steps_(steps), b_lo_(kSplit && blocks.lo ? 2 * blocks.half() : 0) {}

  void multiply(Matrix& matrix) {
    if (kSplit && b_lo_ != 0) {
      matrix.multiply();
      matrix.load_b(b_, b_ + b_next_);
    }
    matrix.multiply();
    if constexpr (kSplit) {
      matrix.load_a(a_ + a_lo_, a_ + a_lo_ + a_next_, a_stride_);
      matrix.multiply();
    }
  }

  int units_ = 0, steps_ = 0, step_ = 0;
  bool accumulate_ = false;
  // Matrix tiles of the step: the second of A, or B, lies `next` elements from the first, their lo
  // `lo` elements from the hi (0: B has none); the rows of A's are `stride` bytes apart; the next
  // step is `step` elements away, and B's next unit `unit`.
  const uint16_t* a_ = nullptr;
  int64_t a_next_ = 0, a_stride_ = 0, a_lo_ = 0, a_step_ = 0;
  const uint16_t* b_ = nullptr;
  int64_t b_next_ = 0, b_lo_ = 0, b_step_ = 0, b_unit_ = 0;
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
  Products<kSplit, Matrix>& current() { return done_ < value_steps_ ? values_ : logits_; }

  // Operands are loaded a step ahead: they come from L2 while a row of the softmax runs.
  void run_to_step(int end) {
    if (done_ == 0 && end > 0) current().load(matrix_);
    while (done_ < end) {
      current().step(matrix_);
      if (++done_ < total_) current().load(matrix_);
    }
  }

  Matrix& matrix_;
  Products<kSplit, Matrix> values_, logits_;
  int value_steps_, total_, done_ = 0;
};

}  // namespace HWY_NAMESPACE
}  // namespace tokensieve::cpu
HWY_AFTER_NAMESPACE();

#endif
