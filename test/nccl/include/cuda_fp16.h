// nccl.h asks for it, and for nothing in it.
