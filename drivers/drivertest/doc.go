// Package drivertest is the conformance suite of drivers. Every driver runs it,
// in real processes, from a test package of its own:
//
//	func TestMain(m *testing.M) { drivertest.Main(m) }
//
//	func TestConformance(t *testing.T) { drivertest.TestDriver(t, socket.Driver{}) }
//
// [Main] makes the test binary its own worker: started by a host it runs what
// the host's script says, started by go test it runs the tests and then fails
// if they have left goroutines, descriptors, processes or files behind.
//
// The suite works at the level of frames, below calls: it uses a link as
// [drivers.Link] documents and knows nothing about any driver.
//
// Tests wait for conditions, never for time. A watchdog ends a test that hangs,
// with the stacks of all goroutines on both sides.
package drivertest
