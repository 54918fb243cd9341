// The version of the binary interface, as a part of every name; and of the language, which every header needs.
//
// Where a program defines NIBBLE_HEADER_ONLY (nibble::header_only does), each header of the library proper brings its
// definitions along, from the impl/ folder beside it, and nothing is linked. Every unit that includes nibble then has
// them, as inline functions, with the scalar backend and the one of the instruction set that its flags name.
#pragma once

#if __cplusplus < 202002L
#error "nibble needs C++20: compile with -std=c++20 or newer"
#endif

/// An inline namespace around everything the library declares, one for each release that changes the binary interface
/// (before 1.0 that is each minor version). Programs write nibble::quantize; the linker sees nibble::v0_1::quantize. So
/// two versions in one process, an engine's and a plug-in's, stay two libraries, and objects compiled for different
/// versions fail to link instead of calling each other with the wrong layouts. The build checks it against the
/// project's version.
///
/// With NIBBLE_HEADER_ONLY the name says so, and the instruction set (v0_1_headers_avx2): units for different ones, and
/// the compiled library beside them, are libraries of their own, of which the linker confuses no two.
#if !defined(NIBBLE_HEADER_ONLY)
#define NIBBLE_ABI v0_1
#define NIBBLE_INLINE  ///< Before a definition in impl/: the compiled library has one of each.
#else
#include "nibble/core/impl/header_only.h"
#endif
