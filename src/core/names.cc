// The words that people see for the library's enumerators.
#include "tokensieve/attention.h"

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

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "f32";
    case DType::kF16: return "f16";
    case DType::kBF16: return "bf16";
  }
  return "unknown";
}

const char* backend_name(Backend backend) {
  switch (backend) {
    case Backend::kAuto: return "auto";
    case Backend::kRef: return "ref";
    case Backend::kCpu: return "cpu";
    case Backend::kCuda: return "cuda";
  }
  return "unknown";
}

const char* stage_name(Stage stage) {
  static constexpr const char* kNames[kNumStages] = {"score",   "budget", "select",
                                                     "compact", "attend", "scatter"};
  const int i = static_cast<int>(stage);
  return i >= 0 && i < kNumStages ? kNames[i] : "unknown";
}

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
    case DenseReason::kDecidedOnDevice: return "the device found sparse not worthwhile or undefined";
  }
  return "unknown";
}

}  // namespace tokensieve
