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
  /* Layers of the profile choose tokens in every ubatch, among all tokens so far (default). A
   * ubatch may be any part of a prompt. */
  TOKENSIEVE_GGML_SPARSE = 2,
  TOKENSIEVE_GGML_CHUNK = 2, /* old names of SPARSE */
  TOKENSIEVE_GGML_WHOLE = 3,
};

/* What one sparse layer is about to keep: the selection of one run of rows of one attention node.
 * Tokens are numbered by age among those that the rows see; 0 is the oldest. */
typedef struct tokensieve_ggml_selection {
  uint32_t struct_size; /* sizeof(tokensieve_ggml_selection) of the plug-in */
  int32_t layer;
  int64_t tokens;     /* visible tokens */
  int64_t queries;    /* rows of this run, the newest tokens */
  int64_t prefix;     /* tokens that may be dropped; every set ends with all newer ones */
  int32_t sets;       /* one per query head, one per kv head, or one for all heads */
  int32_t obs_window; /* last rows, whose attention chose the tokens */
  int64_t capacity;   /* most tokens of a set, and entries of a row of `kept` */
  int64_t count;      /* tokens that every set keeps; may be changed */
  int32_t* kept;      /* i32 [sets, capacity]: ascending tokens, `count` a set; may be changed */
} tokensieve_ggml_selection;

/* Called with the library's choice, on the thread that computes the graph. Returns 1 to run sparse
 * with what `kept` then holds, 0 to run this layer dense. Sets that are not valid run dense, with a
 * warning. */
typedef int (*tokensieve_ggml_select_fn)(tokensieve_ggml_selection* selection, void* user);

typedef struct tokensieve_ggml_config {
  uint32_t struct_size; /* sizeof(tokensieve_ggml_config); a shorter one keeps what it lacks */
  int32_t mode;         /* enum tokensieve_ggml_mode */
  /* JSON text of a layer profile (include/tokensieve/profile.h); NULL keeps the present one. */
  const char* profile_json;
  tokensieve_ggml_select_fn select; /* reads or replaces what sparse layers keep; NULL: nobody */
  void* select_user;
  int32_t always_sparse; /* 1: also where the cost model says that dense is faster (for studies) */
  /* 1: a ubatch of all tokens so far is all of its prompt, so that zero fill may drop its queries.
   * 0: more may follow, and such a ubatch is dense where the fill is zero. */
  int32_t whole_prompts;
  /* enum tokensieve_products (tokensieve_products_c.h) of every node; auto: those of the profile,
   * which holds in mode SPARSE. */
  int32_t products;
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
  double work;           /* computed (query, key) pairs / pairs of the masks, over all nodes */
  double attention_ms;   /* wall time */
  char reason[64];       /* why the last dense node was dense; "" if none was */
  /* Of `nodes`: with rows that no settings make sparse, for their mask (sliding windows) or logits
   * (softcap, sinks, ALiBi). */
  int64_t never_sparse_nodes;
  double block_density; /* visited / visible tiles where block masks steer, mean over all nodes; 1:
                           none did */
  /* enum tokensieve_products that the last node ran with; and why the last one that ran exact
   * although others were asked for did so, "" if none did. */
  int32_t products;
  char products_reason[68];
} tokensieve_ggml_layer_stats;

/* Writes up to `capacity` layers, ascending; returns how many there are. stats may be NULL. */
typedef int32_t (*tokensieve_ggml_stats_fn)(tokensieve_ggml_layer_stats* stats, int32_t capacity);
typedef void (*tokensieve_ggml_reset_stats_fn)(void);

#ifdef __cplusplus
}
#endif

#endif /* TOKENSIEVE_GGML_H_ */
