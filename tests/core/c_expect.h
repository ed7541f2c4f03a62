/* Checks of the tests in C; main returns `failures != 0`. */
#ifndef TOKENSIEVE_TESTS_CORE_C_EXPECT_H_
#define TOKENSIEVE_TESTS_CORE_C_EXPECT_H_

#include <stdio.h>
#include <string.h>
#include <tokensieve/tokensieve_c.h>

static int failures = 0;

#define EXPECT(condition)                                                       \
  do {                                                                          \
    if (!(condition)) {                                                         \
      fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                               \
    }                                                                           \
  } while (0)

/* The call fails with `code` and its message holds `text`. */
#define EXPECT_ERROR(call, expected_code, text)                                             \
  do {                                                                                      \
    tokensieve_status status;                                                               \
    tokensieve_status_init(&status);                                                        \
    const int32_t code = (call);                                                            \
    EXPECT(code == (expected_code) && status.code == (expected_code));                      \
    if (strstr(status.message, (text)) == NULL) {                                           \
      fprintf(stderr, "%s:%d: \"%s\" lacks \"%s\"\n", __FILE__, __LINE__, status.message, \
              (text));                                                                      \
      ++failures;                                                                           \
    }                                                                                       \
  } while (0)

#define EXPECT_OK(call) EXPECT_ERROR(call, TOKENSIEVE_OK, "")

#endif /* TOKENSIEVE_TESTS_CORE_C_EXPECT_H_ */
