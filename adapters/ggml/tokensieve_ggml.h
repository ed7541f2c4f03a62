/* Control surface of the llama.cpp plug-in, for programs that load it.
 *
 * Look the functions up by name:
 *   ggml_backend_reg_get_proc_address(reg, "tokensieve_ggml_configure")
 * where reg = ggml_backend_load(path of libggml-tokensieve.so). Programs that only set
 * GGML_BACKEND_PATH use the environment variables in docs/llama.cpp.md instead. */
#ifndef TOKENSIEVE_GGML_H_
#define TOKENSIEVE_GGML_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum tokensieve_ggml_mode {
  TOKENSIEVE_GGML_OFF = 0,   /* claims nothing: stock llama.cpp */
  TOKENSIEVE_GGML_DENSE = 1, /* tokensieve's dense kernel */
  TOKENSIEVE_GGML_CHUNK = 2, /* KV-side selection, safe for chunked prompts (default) */
  TOKENSIEVE_GGML_WHOLE = 3, /* the full method; the caller promises that a prompt is one ubatch */
};

typedef struct tokensieve_ggml_config {
  uint32_t struct_size; /* sizeof(tokensieve_ggml_config) */
  int32_t mode;         /* enum tokensieve_ggml_mode */
  /* JSON text of a layer profile (include/tokensieve/profile.h); NULL keeps the present one. */
  const char* profile_json;
} tokensieve_ggml_config;

/* Applies to graphs computed from now on (mode OFF and back: to contexts created from now on).
 * Returns 0, or -1 with a message in `error` (error_size bytes, always terminated). */
typedef int (*tokensieve_ggml_configure_fn)(const tokensieve_ggml_config* config, char* error,
                                            uint32_t error_size);

/* What one layer did since the last reset. */
typedef struct tokensieve_ggml_layer_stats {
  uint32_t struct_size;  /* set by the caller in element 0 */
  int32_t layer;         /* -1: unknown */
  int64_t nodes;         /* attention nodes computed */
  int64_t sparse_nodes;  /* of which at least one run was sparse */
  double keep_ratio;     /* mean over sparse nodes of kept tokens / tokens; 1 if none */
  double pair_ratio;     /* computed (query, key) pairs / causal pairs, over all nodes */
  double attention_ms;   /* wall time */
  char reason[64];       /* why the last dense node was dense; "" if none was */
} tokensieve_ggml_layer_stats;

/* Writes up to `capacity` layers, ascending; returns how many there are. stats may be NULL. */
typedef int32_t (*tokensieve_ggml_stats_fn)(tokensieve_ggml_layer_stats* stats, int32_t capacity);
typedef void (*tokensieve_ggml_reset_stats_fn)(void);

#ifdef __cplusplus
}
#endif

#endif /* TOKENSIEVE_GGML_H_ */
