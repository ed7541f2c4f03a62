/* C ABI of tokensieve: layer profiles, and the choice that they make for each attention call. The
 * conventions are those of tokensieve_c.h.
 *
 *   tokensieve_profile* profile = NULL;
 *   tokensieve_profile_load("smollm2.json", &profile, &status);
 *   tokensieve_layer_call call;   tokensieve_layer_call_init(&call);   call.layer = ...
 *   tokensieve_profile_choose(profile, &call, &select, &reason, &status);
 *   tokensieve_make_plan(&shape, &select, NULL, &plan, &status);
 *   tokensieve_profile_free(profile);
 *
 * Texts
 *   - JSON goes in as a terminated string of UTF-8; nothing keeps a pointer to it.
 *   - Texts come out in the caller's buffer: at most `capacity` bytes are written to `text`, the
 *     terminating 0 included, and *length (which may be NULL) gets the length of the whole text
 *     without it. Whole is what was written if *length < capacity; text may be NULL if capacity is
 *     0. So: ask for the length first, or call again with a larger buffer. */
#ifndef TOKENSIEVE_PROFILE_C_H_
#define TOKENSIEVE_PROFILE_C_H_

#include "tokensieve/tokensieve_blocks_c.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Settings by name -------------------------------------------------------------------- */

/* Which keys JSON has: */
enum tokensieve_keys {
  TOKENSIEVE_KEYS_PROFILE = 0, /* those of docs/profile.md; written: what is used, no more */
  TOKENSIEVE_KEYS_ALL = 1      /* every field of tokensieve_select and tokensieve_blocks: also
                                  enabled, queries and dense_policy, and what budget, fill and
                                  pattern do not use. For programs that keep settings in objects of
                                  their own: nothing gets lost */
};

/* Sets the fields that a JSON object names, such as {"fill": "local", "sinks": 8}, with
 * TOKENSIEVE_KEYS_ALL; the others stay. `select` was initialised. It is as it was after an error.
 * Codes: INVALID_ARGUMENT (unknown key, wrong type, value outside its range). */
TOKENSIEVE_API int32_t tokensieve_select_merge_json(const char* json, tokensieve_select* select,
                                                    tokensieve_status* status);

/* All fields as one line of JSON, with TOKENSIEVE_KEYS_ALL. */
TOKENSIEVE_API int32_t tokensieve_select_to_json(const tokensieve_select* select, char* text,
                                                 size_t capacity, size_t* length,
                                                 tokensieve_status* status);

/* The words of a field that is an enumeration: ("fill", 0) is "zero", ("fill", 1) "local", ("fill",
 * 2) NULL. NULL for other fields and names. */
TOKENSIEVE_API const char* tokensieve_select_word(const char* field, int32_t value);

/* The same for block masks: {"pattern": "flex", "gamma": 0.95}. */
TOKENSIEVE_API int32_t tokensieve_blocks_merge_json(const char* json, tokensieve_blocks* blocks,
                                                    tokensieve_status* status);
TOKENSIEVE_API int32_t tokensieve_blocks_to_json(const tokensieve_blocks* blocks, char* text,
                                                 size_t capacity, size_t* length,
                                                 tokensieve_status* status);
TOKENSIEVE_API const char* tokensieve_blocks_word(const char* field, int32_t value);

/* ---- Profiles ---------------------------------------------------------------------------- */

/* Immutable: any number of threads may use it at once. */
typedef struct tokensieve_profile tokensieve_profile;

/* What must match before a profile is used on a model. */
typedef struct tokensieve_fingerprint {
  uint32_t struct_size;
  int32_t num_layers; /* 0 (default): unknown, matches any; so do the others */
  int32_t num_q_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  const char* architecture; /* such as "llama"; NULL (default) or "": unknown */
} tokensieve_fingerprint;

TOKENSIEVE_INIT(fingerprint)

/* On failure *profile becomes NULL. source_name is what errors call the text; NULL: "profile".
 * Codes: DATA_ERROR (names the source, the key and what is allowed), NOT_FOUND (load: no such
 * file), INVALID_ARGUMENT, OUT_OF_MEMORY. */
TOKENSIEVE_API int32_t tokensieve_profile_load(const char* path, tokensieve_profile** profile,
                                               tokensieve_status* status);
TOKENSIEVE_API int32_t tokensieve_profile_parse(const char* json, const char* source_name,
                                                int32_t keys, tokensieve_profile** profile,
                                                tokensieve_status* status);

/* The profile of a model that nobody has measured: the upper half of its num_layers layers. */
TOKENSIEVE_API int32_t tokensieve_profile_default(const tokensieve_fingerprint* model,
                                                  tokensieve_profile** profile,
                                                  tokensieve_status* status);

TOKENSIEVE_API void tokensieve_profile_free(tokensieve_profile* profile); /* NULL is ignored */

/* The profile as JSON of several lines. Parsed with the same keys it gives an equal profile. */
TOKENSIEVE_API int32_t tokensieve_profile_to_json(const tokensieve_profile* profile, int32_t keys,
                                                  char* text, size_t capacity, size_t* length,
                                                  tokensieve_status* status);

/* INVALID_ARGUMENT if the profile was made for another model: names each field that differs. */
TOKENSIEVE_API int32_t tokensieve_profile_check(const tokensieve_profile* profile,
                                                const tokensieve_fingerprint* model,
                                                tokensieve_status* status);

/* enum tokensieve_products, for the options of every plan of the model; NULL: auto. */
TOKENSIEVE_API int32_t tokensieve_profile_products(const tokensieve_profile* profile);

/* ---- Choice ------------------------------------------------------------------------------ */

/* What an engine knows about one attention call of one layer. */
typedef struct tokensieve_layer_call {
  uint32_t struct_size;
  int32_t layer;
  int64_t seqlen_q;     /* 1..seqlen_kv; equal: the whole prompt, whose queries may be dropped; */
  int64_t seqlen_kv;    /* fewer: a chunk */
  int32_t plain_causal; /* default 1; 0: a bias, window or mask that selection does not know */
  int32_t reserved;     /* 0 */
} tokensieve_layer_call;

TOKENSIEVE_INIT(layer_call)

/* Whether the call runs sparse: select->enabled is 1 and *reason TOKENSIEVE_DENSE_REASON_NONE, or 0
 * and *reason says why not. `select` gets the settings to plan with in both cases; it was
 * initialised. reason may be NULL. Engines add what only they can know, and a plan may still decide
 * for dense. Codes: INVALID_ARGUMENT. */
TOKENSIEVE_API int32_t tokensieve_profile_choose(const tokensieve_profile* profile,
                                                 const tokensieve_layer_call* call,
                                                 tokensieve_select* select, int32_t* reason,
                                                 tokensieve_status* status);

/* Which block masks the same call takes: `blocks`, initialised, for
 * tokensieve_make_plan_with_blocks. A call that tokensieve_profile_choose leaves dense takes none,
 * unless it is only selection that the profile switches off (TOKENSIEVE_DENSE_REASON_DISABLED). */
TOKENSIEVE_API int32_t tokensieve_profile_choose_blocks(const tokensieve_profile* profile,
                                                        const tokensieve_layer_call* call,
                                                        tokensieve_blocks* blocks,
                                                        tokensieve_status* status);

#ifdef __cplusplus
}
#endif

#endif /* TOKENSIEVE_PROFILE_C_H_ */
