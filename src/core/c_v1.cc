// The _init functions of programs that were compiled before these were told a size. Such a program
// has the structs of tests/abi/v1.
#include <cstddef>

#include "tokensieve/export.h"

#undef TOKENSIEVE_INIT
#define TOKENSIEVE_INIT(name)                                                                \
  TOKENSIEVE_API size_t tokensieve_##name##_init_sized(tokensieve_##name* out, size_t size); \
  TOKENSIEVE_API void tokensieve_##name##_init(tokensieve_##name* out);
#include "tokensieve/tokensieve_c.h"

namespace {

// The size that a struct had. One that has grown: the offset of its first new field.
template <typename T>
constexpr size_t kSize = sizeof(T);
template <>
constexpr size_t kSize<tokensieve_options> = offsetof(tokensieve_options, products);
template <>
constexpr size_t kSize<tokensieve_plan_info> = offsetof(tokensieve_plan_info, block_pattern);
template <>
constexpr size_t kSize<tokensieve_inputs> = offsetof(tokensieve_inputs, block_mask);
template <>
constexpr size_t kSize<tokensieve_report> =
    offsetof(tokensieve_report, stage_ns) + 6 * sizeof(int64_t);

}  // namespace

extern "C" {

#define INIT(name)                                                       \
  void tokensieve_##name##_init(tokensieve_##name* out) {                \
    tokensieve_##name##_init_sized(out, kSize<tokensieve_##name>);       \
  }
INIT(status)
INIT(executor)
INIT(shape)
INIT(select)
INIT(options)
INIT(plan_info)
INIT(keep_set)
INIT(inputs)
INIT(outputs)
INIT(report)
INIT(run_options)
#undef INIT

}  // extern "C"
