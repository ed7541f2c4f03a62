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

#endif /* TOKENSIEVE_EXPORT_H_ */
