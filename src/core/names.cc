// Texts and names of the library's enumerators, but for the words of names.h.
#include "tokensieve/names.h"

namespace tokensieve {

const char* status_code_name(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "ok";
    case StatusCode::kInvalidArgument: return "invalid argument";
    case StatusCode::kUnsupported: return "unsupported";
    case StatusCode::kWorkspaceTooSmall: return "workspace too small";
    case StatusCode::kCancelled: return "cancelled";
    case StatusCode::kNotFound: return "not found";
    case StatusCode::kDataError: return "data error";
    case StatusCode::kInternal: return "internal error";
    case StatusCode::kOutOfMemory: return "out of memory";
  }
  return "unknown";
}

const char* dtype_name(DType dtype) { return name_of(dtype); }
const char* backend_name(Backend backend) { return name_of(backend); }
const char* stage_name(Stage stage) { return name_of(stage); }

// Each enumeration's last.
static_assert(is_valid(BudgetPolicy::kKeepCount) && is_valid(Share::kLayer) &&
              is_valid(Fill::kLocal) && is_valid(Queries::kAll) &&
              is_valid(Arithmetic::kReferenceRounding) && is_valid(DensePolicy::kNever) &&
              is_valid(DType::kBF16) && is_valid(Backend::kCuda) && is_valid(Isa::kAmxEmulated) &&
              is_valid(Products::kBf16) &&
              is_valid(Path::kSparse) && kWords<Stage>.size() == kNumStages &&
              is_valid(BlockPattern::kVerticalSlash));

const char* dense_reason_text(DenseReason reason) {
  switch (reason) {
    case DenseReason::kNone: return "none";
    case DenseReason::kDisabled: return "selection is off";
    case DenseReason::kShortPrompt: return "the prefix is no longer than min_keep";
    case DenseReason::kFewQueries: return "fewer queries than obs_window";
    case DenseReason::kNothingToDrop: return "the budget keeps (nearly) every token";
    case DenseReason::kBreakEven: return "sparse would not be faster";
    case DenseReason::kNotSparsifiable: return "attention is not plainly causal";
    case DenseReason::kNonFiniteScore: return "q or k holds NaN or inf";
    case DenseReason::kDecidedOnDevice: return "the device chose dense (no reason kept)";
    case DenseReason::kLayerNotListed: return "layer not in the profile";
    case DenseReason::kBelowMinTokens: return "prompt shorter than min_tokens";
    case DenseReason::kFewRows: return "few rows";
  }
  return "unknown";
}

const char* products_reason_text(ProductsReason reason) {
  switch (reason) {
    case ProductsReason::kNone: return "none";
    case ProductsReason::kNoTiles: return "the instruction set has no matrix tiles";
    case ProductsReason::kPermission: return "the system refuses matrix tiles to this process";
    case ProductsReason::kSignalStack:
      return "a thread's alternate signal stack has no room for matrix tiles";
    case ProductsReason::kF32Keys: return "k and v are f32, of which split would keep 16 bits";
    case ProductsReason::kNotCausal: return "attention is not plainly causal";
    case ProductsReason::kBackend: return "only backend cpu has other than exact products";
    case ProductsReason::kColumns: return "single columns of block masks are computed in f32";
  }
  return "unknown";
}

}  // namespace tokensieve
