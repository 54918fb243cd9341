// The version of the binary interface, as a part of every name; and of the language, which every header needs.
#pragma once

#if __cplusplus < 202002L
#error "nibble needs C++20: compile with -std=c++20 or newer"
#endif

/// An inline namespace around everything the library declares, one for each release that changes the binary interface
/// (before 1.0 that is each minor version). Programs write nibble::quantize; the linker sees nibble::v0_1::quantize. So
/// two versions in one process, an engine's and a plug-in's, stay two libraries, and objects compiled for different
/// versions fail to link instead of calling each other with the wrong layouts. The build checks it against the
/// project's version.
#define NIBBLE_ABI v0_1
