/* C ABI of tokensieve: how attention's two products are computed (docs/products.md). Asked for in
 * tokensieve_options; tokensieve_plan_info and tokensieve_report say what runs. */
#ifndef TOKENSIEVE_PRODUCTS_C_H_
#define TOKENSIEVE_PRODUCTS_C_H_

#include "tokensieve/tokensieve_c.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tokensieve_products {
  TOKENSIEVE_PRODUCTS_AUTO = 0,  /* exact */
  TOKENSIEVE_PRODUCTS_EXACT = 1, /* f32; CUDA: its 16 bits */
  TOKENSIEVE_PRODUCTS_SPLIT = 2, /* CPU: tiles of 16 bits, operands in two pieces; f16, bf16 k, v */
  TOKENSIEVE_PRODUCTS_BF16 = 3   /* CPU: tiles of 16 bits, operands rounded to bf16 */
};

/* Why products are exact although others were asked for. */
enum tokensieve_products_reason {
  TOKENSIEVE_PRODUCTS_REASON_NONE = 0, /* they are what was asked for */
  TOKENSIEVE_PRODUCTS_REASON_NO_TILES = 1,
  TOKENSIEVE_PRODUCTS_REASON_PERMISSION = 2,
  TOKENSIEVE_PRODUCTS_REASON_SIGNAL_STACK = 3,
  TOKENSIEVE_PRODUCTS_REASON_F32_KEYS = 4,
  TOKENSIEVE_PRODUCTS_REASON_NOT_CAUSAL = 5,
  TOKENSIEVE_PRODUCTS_REASON_BACKEND = 6,
  TOKENSIEVE_PRODUCTS_REASON_COLUMNS = 7
};

/* "auto", "exact", "split", "bf16"; other values: "unknown". */
TOKENSIEVE_API const char* tokensieve_products_name(int32_t products);
TOKENSIEVE_API const char* tokensieve_products_reason_text(int32_t reason);

#ifdef __cplusplus
}
#endif

#endif /* TOKENSIEVE_PRODUCTS_C_H_ */
