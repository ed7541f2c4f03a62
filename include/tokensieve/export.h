/* TOKENSIEVE_API marks what a shared library exports; everything else is built hidden.
 *
 * CMake defines TOKENSIEVE_SHARED for shared builds. In a static library the mark is empty, so
 * that a plug-in which links the library exports none of it. */
#ifndef TOKENSIEVE_EXPORT_H_
#define TOKENSIEVE_EXPORT_H_

#if defined(TOKENSIEVE_SHARED) && (defined(__GNUC__) || defined(__clang__))
#define TOKENSIEVE_API __attribute__((visibility("default")))
#else
#define TOKENSIEVE_API
#endif

/* Defines tokensieve_NAME_init(&value) of the C ABI: the defaults, and the size that the struct has
 * in the program that calls it, which may be older or newer than the library. init_sized returns
 * the library's own. */
#define TOKENSIEVE_INIT(name)                                                                \
  TOKENSIEVE_API size_t tokensieve_##name##_init_sized(tokensieve_##name* out, size_t size); \
  static inline void tokensieve_##name##_init(tokensieve_##name* out) {                      \
    tokensieve_##name##_init_sized(out, sizeof(*out));                                       \
  }

#endif /* TOKENSIEVE_EXPORT_H_ */
