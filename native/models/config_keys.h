// Keys of a config.json that nobody has asked for: harmless ones pass, ones that would change results are refused by name
// unless they have the value that changes nothing, and the rest is told in a note.
#pragma once
#include "models/config_reader.h"

namespace isr {

enum class Keys : uint8_t { Decoder, Video, Tower, Generation };   // Video: the object that holds a text_config or mm_* keys

// Call it when everything is read. `decoder`: sizes that some values are compared with; null in a tower's and generation's.
void check_keys(const ConfigReader& config, Keys kind, const DecoderConfig* decoder, std::vector<std::string>& notes);

}  // namespace isr
