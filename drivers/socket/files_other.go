//go:build !unix

package socket

import "os"

const (
	filesSupported = false
	rightsSize     = 0
)

func sendFiles(int, *[3][]byte, []*os.File) (int, error) { return 0, supported() }
func parcelOf([]byte, int) (parcel, error)               { return parcel{}, supported() }
