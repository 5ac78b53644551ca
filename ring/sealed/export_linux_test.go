package sealed

const AllocateStep = allocateStep
