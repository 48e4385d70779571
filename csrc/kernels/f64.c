#include "real.h"

#include "activation.inc"
#include "add.inc"
#include "convert.inc"
#include "dense.inc"
#include "loss.inc"
#include "softmax.inc"
#include "update.inc"
