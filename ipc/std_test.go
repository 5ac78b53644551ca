package ipc_test

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"container/list"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"debug/buildinfo"
	"encoding/asn1"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"go/token"
	"hash/maphash"
	"html/template"
	"image"
	"image/color"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/mail"
	"net/netip"
	"net/textproto"
	"net/url"
	"os"
	"os/user"
	"reflect"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unique"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

// standard are types of the standard library, and which codecs carry them: the others refuse them when
// a method is declared.
var standard = []struct {
	t      reflect.Type
	codecs string
}{
	{reflect.TypeFor[tar.Header](), "cbor json"},
	{reflect.TypeFor[zip.FileHeader](), "cbor json"},
	{reflect.TypeFor[bufio.Reader](), ""},
	{reflect.TypeFor[bytes.Buffer](), ""},
	{reflect.TypeFor[list.List](), ""},
	{reflect.TypeFor[context.Context](), ""},
	{reflect.TypeFor[ecdsa.PublicKey](), ""},
	{reflect.TypeFor[ed25519.PublicKey](), "cbor json"},
	{reflect.TypeFor[rsa.PublicKey](), "cbor json"},
	{reflect.TypeFor[tls.Config](), ""},
	{reflect.TypeFor[tls.ConnectionState](), "cbor"},
	{reflect.TypeFor[x509.Certificate](), "cbor"},
	{reflect.TypeFor[pkix.Name](), "cbor json"},
	{reflect.TypeFor[sql.NullInt64](), "cbor json"},
	{reflect.TypeFor[sql.NullTime](), "cbor json"},
	{reflect.TypeFor[sql.Null[string]](), "cbor json"},
	{reflect.TypeFor[sql.DBStats](), "cbor json"},
	{reflect.TypeFor[buildinfo.BuildInfo](), "cbor json"},
	{reflect.TypeFor[asn1.ObjectIdentifier](), "cbor json"},
	{reflect.TypeFor[asn1.BitString](), "cbor json"},
	{reflect.TypeFor[csv.ParseError](), ""},
	{reflect.TypeFor[json.Number](), "cbor json"},
	{reflect.TypeFor[json.RawMessage](), "cbor json"},
	{reflect.TypeFor[json.Delim](), "cbor json"},
	{reflect.TypeFor[xml.Name](), "cbor json"},
	{reflect.TypeFor[xml.Attr](), "cbor json"},
	{reflect.TypeFor[token.Position](), "cbor json"},
	{reflect.TypeFor[token.File](), ""},
	{reflect.TypeFor[maphash.Seed](), ""},
	{reflect.TypeFor[template.HTML](), "cbor json"},
	{reflect.TypeFor[template.Template](), ""},
	{reflect.TypeFor[image.Rectangle](), "cbor json"},
	{reflect.TypeFor[image.RGBA](), "cbor json"},
	{reflect.TypeFor[image.Image](), ""},
	{reflect.TypeFor[color.NRGBA64](), "cbor json"},
	{reflect.TypeFor[color.Palette](), ""},
	{reflect.TypeFor[io.Reader](), ""},
	{reflect.TypeFor[io.SectionReader](), ""},
	{reflect.TypeFor[fs.FileMode](), "cbor json"},
	{reflect.TypeFor[fs.PathError](), ""},
	{reflect.TypeFor[slog.Level](), "cbor json"},
	{reflect.TypeFor[slog.Attr](), ""},
	{reflect.TypeFor[slog.Record](), "cbor json"},
	{reflect.TypeFor[slog.LevelVar](), "cbor json"},
	{reflect.TypeFor[big.Int](), "cbor json"},
	{reflect.TypeFor[big.Rat](), "cbor json"},
	{reflect.TypeFor[big.Float](), ""},
	{reflect.TypeFor[big.Word](), "cbor json"},
	{reflect.TypeFor[rand.PCG](), "cbor"},
	{reflect.TypeFor[rand.Rand](), ""},
	{reflect.TypeFor[multipart.FileHeader](), "cbor json"},
	{reflect.TypeFor[net.IP](), "cbor json"},
	{reflect.TypeFor[net.IPMask](), "cbor json"},
	{reflect.TypeFor[net.IPNet](), "cbor json"},
	{reflect.TypeFor[net.TCPAddr](), "cbor json"},
	{reflect.TypeFor[net.HardwareAddr](), "cbor json"},
	{reflect.TypeFor[net.Interface](), "cbor json"},
	{reflect.TypeFor[net.OpError](), ""},
	{reflect.TypeFor[net.SRV](), "cbor json"},
	{reflect.TypeFor[net.Dialer](), ""},
	{reflect.TypeFor[http.Cookie](), "cbor json"},
	{reflect.TypeFor[http.Header](), "cbor json"},
	{reflect.TypeFor[http.Request](), ""},
	{reflect.TypeFor[mail.Address](), "cbor json"},
	{reflect.TypeFor[netip.Addr](), "cbor json"},
	{reflect.TypeFor[netip.AddrPort](), "cbor json"},
	{reflect.TypeFor[netip.Prefix](), "cbor json"},
	{reflect.TypeFor[textproto.MIMEHeader](), "cbor json"},
	{reflect.TypeFor[url.URL](), "cbor"},
	{reflect.TypeFor[url.Values](), "cbor json"},
	{reflect.TypeFor[url.Userinfo](), ""},
	{reflect.TypeFor[os.File](), ""},
	{reflect.TypeFor[os.ProcessState](), ""},
	{reflect.TypeFor[user.User](), "cbor json"},
	{reflect.TypeFor[reflect.Kind](), "cbor json"},
	{reflect.TypeFor[reflect.Value](), ""},
	{reflect.TypeFor[regexp.Regexp](), "cbor json"},
	{reflect.TypeFor[runtime.MemStats](), "cbor json"},
	{reflect.TypeFor[debug.Module](), "cbor json"},
	{reflect.TypeFor[debug.GCStats](), "cbor json"},
	{reflect.TypeFor[strings.Builder](), ""},
	{reflect.TypeFor[sync.Mutex](), ""},
	{reflect.TypeFor[sync.Map](), ""},
	{reflect.TypeFor[atomic.Int64](), ""},
	{reflect.TypeFor[atomic.Pointer[int]](), ""},
	{reflect.TypeFor[testing.BenchmarkResult](), "cbor json"},
	{reflect.TypeFor[time.Time](), "cbor json"},
	{reflect.TypeFor[time.Duration](), "cbor json"},
	{reflect.TypeFor[time.Weekday](), "cbor json"},
	{reflect.TypeFor[time.Location](), ""},
	{reflect.TypeFor[time.Timer](), ""},
	{reflect.TypeFor[unicode.RangeTable](), "cbor json"},
	{reflect.TypeFor[unique.Handle[string]](), ""},
	{reflect.TypeFor[error](), ""},
	{reflect.TypeFor[complex128](), ""},
	{reflect.TypeFor[struct{}](), "cbor json"},
}

// Each type of the standard library travels or is refused, as the table says, and so do pointers to
// it, slices and maps of it, and structs with it.
func TestStandardTypesTravelOrAreRefused(t *testing.T) {
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		for _, c := range standard {
			t.Run(codec.Name()+"/"+c.t.String(), func(t *testing.T) {
				travels := slices.Contains(strings.Fields(c.codecs), codec.Name())
				in := []reflect.Type{c.t, reflect.PointerTo(c.t), reflect.SliceOf(c.t), reflect.MapOf(reflect.TypeFor[string](), reflect.PointerTo(c.t)),
					reflect.StructOf([]reflect.StructField{{Name: "Field", Type: c.t}})}
				for _, typ := range in {
					err := ipc.CheckTravels(typ, codec)
					if !travels {
						if err == nil {
							t.Errorf("%v is not refused", typ)
						}
						continue
					}
					if err != nil {
						t.Errorf("%v is refused: %v", typ, err)
						continue
					}
				}
				if !travels || t.Failed() {
					return
				}
				outcomes := make(map[string]int)
				rapid.Check(t, func(t *rapid.T) { outcomes[travel(t, codec, rapid.SampledFrom(in).Draw(t, "type"))]++ })
				if outcomes["arrives"] == 0 {
					t.Errorf("no value has arrived: %s", fmt.Sprint(outcomes))
				}
			})
		}
	}
}

// The table in the documents is this one.
func TestDocumentsNameWhatTravels(t *testing.T) {
	text, err := os.ReadFile("../docs/choosing-a-driver.md")
	require.NoError(t, err)
	for label, codecs := range map[string]string{"CBOR and JSON": "cbor json", "CBOR only": "cbor", "neither": ""} {
		var names []string
		for _, c := range standard {
			if c.codecs == codecs {
				names = append(names, "`"+c.t.String()+"`")
			}
		}
		row := "| " + label + " | " + strings.Join(names, ", ") + " |"
		require.True(t, strings.Contains(string(text), row), "docs/choosing-a-driver.md needs the row\n%s", row)
	}
}
