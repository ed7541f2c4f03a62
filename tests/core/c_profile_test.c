/* Profiles through the C ABI, from a C program: texts, settings by name, choices, errors. */
#include <tokensieve/tokensieve_products_c.h>
#include <tokensieve/tokensieve_profile_c.h>

#include "c_expect.h"

static const char kProfile[] =
    "{\"tokensieve_profile\": 1, \"model\": \"Test\", \"fingerprint\": "
    "{\"architecture\": \"llama\", \"num_layers\": 8, \"head_dim\": 64}, \"sparse_layers\": [2, 5], \"min_tokens\": 2000,"
    " \"select\": {\"budget\": \"keep_ratio\", \"keep_ratio\": 0.3, \"fill\": \"local\"},"
    " \"layer_select\": [{\"layers\": [5],"
    " \"select\": {\"keep_ratio\": 0.1, \"fill\": \"zero\"}}]}";

static tokensieve_profile* parse(const char* json, int32_t keys) {
  tokensieve_profile* profile = NULL;
  EXPECT_OK(tokensieve_profile_parse(json, "test", keys, &profile, &status));
  EXPECT(profile != NULL);
  return profile;
}

static int32_t choose(const tokensieve_profile* profile, int32_t layer, int64_t rows, int64_t keys,
                      tokensieve_select* select) {
  int32_t reason = -1;
  tokensieve_layer_call call;
  tokensieve_layer_call_init(&call);
  EXPECT(call.plain_causal == 1);
  call.layer = layer;
  call.seqlen_q = rows;
  call.seqlen_kv = keys;
  EXPECT_OK(tokensieve_profile_choose(profile, &call, select, &reason, &status));
  EXPECT((select->enabled == 1) == (reason == TOKENSIEVE_DENSE_REASON_NONE));
  return reason;
}

static void test_choices(void) {
  tokensieve_profile* profile = parse(kProfile, TOKENSIEVE_KEYS_PROFILE);
  tokensieve_select select;
  tokensieve_select_init(&select);
  EXPECT(choose(profile, 2, 4000, 4000, &select) == TOKENSIEVE_DENSE_REASON_NONE);
  EXPECT(select.keep_ratio == 0.3 && select.fill == TOKENSIEVE_FILL_LOCAL);
  EXPECT(select.budget == TOKENSIEVE_BUDGET_KEEP_RATIO);
  EXPECT(select.queries == TOKENSIEVE_QUERIES_KEPT);
  EXPECT(choose(profile, 2, 512, 4000, &select) == TOKENSIEVE_DENSE_REASON_NONE);
  EXPECT(select.queries == TOKENSIEVE_QUERIES_KEPT && select.protect_first == 0);
  EXPECT(choose(profile, 5, 512, 4000, &select) == TOKENSIEVE_DENSE_REASON_NONE);
  EXPECT(select.keep_ratio == 0.1 && select.queries == TOKENSIEVE_QUERIES_ALL);
  EXPECT(select.protect_first == 4);
  EXPECT(choose(profile, 5, 511, 4000, &select) == TOKENSIEVE_DENSE_REASON_FEW_ROWS);
  EXPECT(choose(profile, 3, 4000, 4000, &select) == TOKENSIEVE_DENSE_REASON_LAYER_NOT_LISTED);
  EXPECT(choose(profile, 2, 1999, 1999, &select) == TOKENSIEVE_DENSE_REASON_BELOW_MIN_TOKENS);
  EXPECT(strcmp(tokensieve_dense_reason_text(TOKENSIEVE_DENSE_REASON_BELOW_MIN_TOKENS),
                "prompt shorter than min_tokens") == 0);

  tokensieve_layer_call call;
  tokensieve_layer_call_init(&call);
  call.layer = 2;
  call.seqlen_q = call.seqlen_kv = 4000;
  call.plain_causal = 0;
  int32_t reason = 0;
  EXPECT_OK(tokensieve_profile_choose(profile, &call, &select, &reason, &status));
  EXPECT(reason == TOKENSIEVE_DENSE_REASON_NOT_SPARSIFIABLE && select.enabled == 0);
  EXPECT_OK(tokensieve_profile_choose(profile, &call, &select, NULL, &status));
  call.seqlen_q = 4001;
  EXPECT_ERROR(tokensieve_profile_choose(profile, &call, &select, &reason, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "seqlen_q is 4001; allowed: 1..seqlen_kv (4000)");
  call.struct_size = 3;
  EXPECT_ERROR(tokensieve_profile_choose(profile, &call, &select, &reason, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "call.struct_size is 3");
  tokensieve_profile_free(profile);
}

static void test_products(void) {
  tokensieve_profile* profile = parse(kProfile, TOKENSIEVE_KEYS_PROFILE);
  EXPECT(tokensieve_profile_products(profile) == TOKENSIEVE_PRODUCTS_AUTO);
  tokensieve_profile_free(profile);
  profile = parse(
      "{\"tokensieve_profile\": 1, \"fingerprint\": {}, \"sparse_layers\": [], \"select\": {},"
      " \"products\": \"bf16\"}",
      TOKENSIEVE_KEYS_PROFILE);
  EXPECT(tokensieve_profile_products(profile) == TOKENSIEVE_PRODUCTS_BF16);
  tokensieve_profile_free(profile);
  EXPECT(tokensieve_profile_products(NULL) == TOKENSIEVE_PRODUCTS_AUTO);
}

static void test_texts(void) {
  tokensieve_profile* profile = parse(kProfile, TOKENSIEVE_KEYS_PROFILE);
  size_t length = 0;
  EXPECT_OK(tokensieve_profile_to_json(profile, TOKENSIEVE_KEYS_ALL, NULL, 0, &length, &status));
  char all[4096], again[4096], cut[20];
  EXPECT(length > 100 && length < sizeof(all));
  size_t written = 0;
  EXPECT_OK(tokensieve_profile_to_json(profile, TOKENSIEVE_KEYS_ALL, all, length + 1, &written,
                                       &status));
  EXPECT(written == length && strlen(all) == length);
  EXPECT(strstr(all, "\"dense_policy\": \"break_even\"") != NULL);
  EXPECT(strstr(all, "\"tau\": 0.005") != NULL); /* not used */
  EXPECT_OK(tokensieve_profile_to_json(profile, TOKENSIEVE_KEYS_ALL, cut, sizeof(cut), &written,
                                       &status));
  EXPECT(written == length && strlen(cut) == sizeof(cut) - 1 && strncmp(cut, all, 19) == 0);

  /* What is parsed with the same keys is the same. */
  tokensieve_profile* same = parse(all, TOKENSIEVE_KEYS_ALL);
  EXPECT_OK(tokensieve_profile_to_json(same, TOKENSIEVE_KEYS_ALL, again, sizeof(again), NULL,
                                       &status));
  EXPECT(strcmp(all, again) == 0);
  tokensieve_profile_free(same);
  /* Files have no policies of a call. */
  EXPECT_ERROR(tokensieve_profile_parse(all, NULL, TOKENSIEVE_KEYS_PROFILE, &same, &status),
               TOKENSIEVE_DATA_ERROR, "profile: select: unknown key \"enabled\"");
  EXPECT(same == NULL);
  EXPECT_OK(tokensieve_profile_to_json(profile, TOKENSIEVE_KEYS_PROFILE, again, sizeof(again),
                                       NULL, &status));
  EXPECT(strstr(again, "dense_policy") == NULL && strstr(again, "tau") == NULL);
  EXPECT_ERROR(tokensieve_profile_to_json(profile, 2, again, sizeof(again), NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "keys is 2; allowed: 0 (profile) and 1 (all)");
  EXPECT_ERROR(tokensieve_profile_to_json(profile, 0, NULL, 5, NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "text is NULL");
  tokensieve_profile_free(profile);
  tokensieve_profile_free(NULL);
}

static void test_settings(void) {
  tokensieve_select select;
  tokensieve_select_init(&select);
  EXPECT_OK(tokensieve_select_merge_json(
      "{\"fill\": \"local\", \"sinks\": 8, \"dense_policy\": \"never\"}", &select, &status));
  EXPECT(select.fill == TOKENSIEVE_FILL_LOCAL && select.sinks == 8);
  EXPECT(select.dense_policy == TOKENSIEVE_DENSE_NEVER && select.obs_window == 128);
  EXPECT(select.struct_size == sizeof(select));
  EXPECT_ERROR(tokensieve_select_merge_json("{\"sinks\": 9, \"tau\": 2}", &select, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "tau is 2; allowed: a number, [0, 1)");
  EXPECT_ERROR(tokensieve_select_merge_json("{\"fill\": \"l\"}", &select, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "fill is \"l\"; allowed: zero, local");
  EXPECT_ERROR(tokensieve_select_merge_json("{\"keep\": 1}", &select, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "unknown key \"keep\"");
  EXPECT_ERROR(tokensieve_select_merge_json("{\"enabled\": 1}", &select, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "enabled is 1; allowed: true or false");
  EXPECT_ERROR(tokensieve_select_merge_json("{", &select, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "not valid JSON");
  EXPECT_ERROR(tokensieve_select_merge_json(NULL, &select, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "json is NULL");
  EXPECT(select.sinks == 8); /* errors change nothing */

  char text[1024];
  EXPECT_OK(tokensieve_select_to_json(&select, text, sizeof(text), NULL, &status));
  EXPECT(strstr(text, "\"sinks\":8") != NULL && strstr(text, "\"enabled\":true") != NULL);
  tokensieve_select other;
  tokensieve_select_init(&other);
  EXPECT_OK(tokensieve_select_merge_json(text, &other, &status));
  EXPECT(memcmp(&select, &other, sizeof(select)) == 0);

  /* A program may reserve room for fields that it does not know. */
  union {
    tokensieve_select known;
    unsigned char bytes[512];
  } room;
  memset(&room, 0, sizeof(room));
  tokensieve_select_init(&room.known);
  room.known.struct_size = sizeof(room);
  EXPECT_OK(tokensieve_select_merge_json("{\"sinks\": 8}", &room.known, &status));
  EXPECT(room.known.sinks == 8 && room.known.struct_size == sizeof(room));

  EXPECT(strcmp(tokensieve_select_word("fill", 1), "local") == 0);
  EXPECT(strcmp(tokensieve_select_word("budget", 2), "keep_count") == 0);
  EXPECT(tokensieve_select_word("fill", 2) == NULL);
  EXPECT(tokensieve_select_word("fill", -1) == NULL);
  EXPECT(tokensieve_select_word("tau", 0) == NULL && tokensieve_select_word("x", 0) == NULL);
  EXPECT(tokensieve_select_word(NULL, 0) == NULL);
}

static void test_blocks(void) {
  static const char kBlocks[] =
      "{\"tokensieve_profile\": 1, \"fingerprint\": {}, \"sparse_layers\": [2], \"select\": {},"
      " \"blocks\": {\"pattern\": \"pooled\", \"alpha\": 0.2, \"share\": \"kv\"}}";
  tokensieve_profile* profile = parse(kBlocks, TOKENSIEVE_KEYS_PROFILE);
  tokensieve_layer_call call;
  tokensieve_layer_call_init(&call);
  call.layer = 2;
  call.seqlen_q = call.seqlen_kv = 8192;
  tokensieve_blocks blocks;
  tokensieve_blocks_init(&blocks);
  EXPECT_OK(tokensieve_profile_choose_blocks(profile, &call, &blocks, &status));
  EXPECT(blocks.pattern == TOKENSIEVE_BLOCKS_POOLED && blocks.alpha == 0.2);
  EXPECT(blocks.share == TOKENSIEVE_SHARE_KV && blocks.sink_tiles == 2);
  call.seqlen_q = 2048; /* zero fill: all queries of a chunk */
  EXPECT_OK(tokensieve_profile_choose_blocks(profile, &call, &blocks, &status));
  EXPECT(blocks.pattern == TOKENSIEVE_BLOCKS_NONE);
  call.seqlen_q = 0;
  EXPECT_ERROR(tokensieve_profile_choose_blocks(profile, &call, &blocks, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "seqlen_q is 0");
  EXPECT_ERROR(tokensieve_profile_choose_blocks(profile, &call, NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "blocks is NULL");
  EXPECT_ERROR(tokensieve_profile_choose_blocks(NULL, &call, &blocks, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "profile is NULL");
  tokensieve_profile_free(profile);

  EXPECT_OK(tokensieve_blocks_merge_json("{\"pattern\": \"flex\", \"gamma\": 0.5}", &blocks,
                                         &status));
  EXPECT(blocks.pattern == TOKENSIEVE_BLOCKS_FLEX && blocks.gamma == 0.5);
  EXPECT_ERROR(tokensieve_blocks_merge_json("{\"alpha\": -1}", &blocks, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "blocks: alpha is -1; allowed: a number, [0, 1]");
  char text[1024];
  EXPECT_OK(tokensieve_blocks_to_json(&blocks, text, sizeof(text), NULL, &status));
  EXPECT(strstr(text, "\"pattern\":\"flex\"") != NULL && strstr(text, "\"alpha\":0.1") != NULL);
  tokensieve_blocks other;
  tokensieve_blocks_init(&other);
  EXPECT_OK(tokensieve_blocks_merge_json(text, &other, &status));
  EXPECT(memcmp(&blocks, &other, sizeof(blocks)) == 0);
  EXPECT(strcmp(tokensieve_blocks_word("pattern", 5), "antidiagonal") == 0);
  EXPECT(strcmp(tokensieve_blocks_word("share", 2), "layer") == 0);
  EXPECT(strcmp(tokensieve_blocks_word("pattern", 6), "vertical_slash") == 0);
  EXPECT(tokensieve_blocks_word("pattern", 7) == NULL && tokensieve_blocks_word("fill", 0) == NULL);
}

static void test_models(void) {
  tokensieve_profile* profile = parse(kProfile, TOKENSIEVE_KEYS_PROFILE);
  tokensieve_fingerprint model;
  tokensieve_fingerprint_init(&model);
  model.architecture = "llama";
  model.num_layers = 8;
  model.num_q_heads = 9;
  model.head_dim = 64;
  EXPECT_OK(tokensieve_profile_check(profile, &model, &status));
  model.head_dim = 128;
  EXPECT_ERROR(tokensieve_profile_check(profile, &model, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "head_dim 128 (profile: 64)");
  EXPECT_ERROR(tokensieve_profile_check(NULL, &model, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "profile is NULL");
  tokensieve_profile_free(profile);

  tokensieve_select select;
  tokensieve_select_init(&select);
  EXPECT_OK(tokensieve_profile_default(&model, &profile, &status));
  EXPECT(choose(profile, 3, 4096, 4096, &select) == TOKENSIEVE_DENSE_REASON_LAYER_NOT_LISTED);
  EXPECT(choose(profile, 4, 4096, 4096, &select) == TOKENSIEVE_DENSE_REASON_NONE);
  EXPECT(select.share == TOKENSIEVE_SHARE_LAYER);
  EXPECT_OK(tokensieve_profile_check(profile, &model, &status));
  tokensieve_profile_free(profile);
}

static void test_sources(void) {
  tokensieve_profile* profile = NULL;
  EXPECT_ERROR(tokensieve_profile_load("/no/such/profile.json", &profile, &status),
               TOKENSIEVE_NOT_FOUND, "/no/such/profile.json");
  EXPECT_ERROR(tokensieve_profile_load(NULL, &profile, &status), TOKENSIEVE_INVALID_ARGUMENT,
               "path is NULL");
  EXPECT_ERROR(tokensieve_profile_parse("[]", "here", 0, &profile, &status), TOKENSIEVE_DATA_ERROR,
               "here: is not a JSON object");
  EXPECT_ERROR(tokensieve_profile_parse(NULL, "here", 0, &profile, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "json is NULL");
  EXPECT_ERROR(tokensieve_profile_parse("{}", "here", 0, NULL, &status),
               TOKENSIEVE_INVALID_ARGUMENT, "profile is NULL");
  EXPECT(profile == NULL);
}

int main(void) {
  test_choices();
  test_products();
  test_texts();
  test_settings();
  test_blocks();
  test_models();
  test_sources();
  return failures != 0;
}
