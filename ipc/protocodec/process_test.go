//go:build unix

package protocodec_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/protocodec"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

var (
	echo = ipc.NewMethod[*structpb.Value, *structpb.Value]("test.echo", ipc.WithCodec(protocodec.Codec))
	// The worker takes no more than this for a request, and sends nil.
	small = ipc.NewMethod[*structpb.ListValue, *structpb.ListValue]("test.small", ipc.WithCodec(protocodec.Codec), ipc.WithMaxDecoded(1<<10))
	large = ipc.NewMethod[*structpb.ListValue, *structpb.ListValue]("test.small", ipc.WithCodec(protocodec.Codec))
)

func TestMain(m *testing.M) {
	worker.Main("proto", func() error {
		s := worker.NewServer()
		worker.Handle(s, echo, func(_ context.Context, v *structpb.Value) (*structpb.Value, error) {
			if v.GetStringValue() == "fail" {
				return nil, ipc.Errorf(ipc.CodeNotFound, "no such value")
			}
			return v, nil
		})
		worker.Handle(s, small, func(context.Context, *structpb.ListValue) (*structpb.ListValue, error) { return nil, nil })
		worker.Handle(s, after, func(_ context.Context, t *timestamppb.Timestamp) (*timestamppb.Timestamp, error) {
			return timestamppb.New(t.AsTime().Add(time.Hour)), nil
		})
		return s.Serve(context.Background())
	})
	os.Exit(m.Run())
}

// withWorkers runs f with a worker of each driver.
func withWorkers(t *testing.T, f func(t *testing.T, c ipc.Starter)) {
	t.Run((shm.Driver{}).Name(), func(t *testing.T) {
		if err := ring.Supported(); err != nil {
			t.Skip(err)
		}
		w, err := worker.Spawn(t.Context(), worker.Self("proto"), shm.Driver{})
		require.NoError(t, err)
		defer func() { require.NoError(t, w.Close()) }()
		f(t, w)
	})
	t.Run((socket.Driver{}).Name(), func(t *testing.T) {
		w, err := worker.Spawn(t.Context(), worker.Self("proto"), socket.Driver{})
		if err != nil {
			t.Skip(err) // there are systems without workers
		}
		defer func() { require.NoError(t, w.Close()) }()
		f(t, w)
	})
}

func TestCallsBetweenProcesses(t *testing.T) {
	withWorkers(t, func(t *testing.T, c ipc.Starter) {
		in, err := structpb.NewValue(map[string]any{"list": []any{1, "two", nil, true}, "inner": map[string]any{"x": 1.5}})
		require.NoError(t, err)
		out, err := echo.Call(t.Context(), c, in)
		require.NoError(t, err)
		require.True(t, proto.Equal(in, out), "%v", out)

		into := structpb.NewBoolValue(true)
		memory := into
		require.NoError(t, echo.CallInto(t.Context(), c, in, &into))
		require.True(t, proto.Equal(in, into), "%v", into)
		require.Same(t, memory, into)
		f, err := echo.Go(t.Context(), c, in)
		require.NoError(t, err)
		out, err = f.Wait(t.Context())
		require.NoError(t, err)
		require.True(t, proto.Equal(in, out), "%v", out)

		out, err = echo.Call(t.Context(), c, nil)
		require.NoError(t, err)
		require.True(t, proto.Equal(new(structpb.Value), out), "nil is empty on the other side")
		_, err = echo.Call(t.Context(), c, structpb.NewStringValue("fail"))
		require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err), "%v", err)
		_, err = echo.Call(t.Context(), c, structpb.NewStringValue("\xff"))
		require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err), "%v", err)

		list, err := large.Call(t.Context(), c, nil)
		require.NoError(t, err)
		require.Empty(t, list.GetValues())
		many := &structpb.ListValue{Values: make([]*structpb.Value, 100)}
		for i := range many.Values {
			many.Values[i] = structpb.NewNumberValue(float64(i))
		}
		_, err = large.Call(t.Context(), c, many)
		var e *ipc.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, ipc.CodeResourceExhausted, e.Code)
		require.True(t, e.Remote())
		require.ErrorContains(t, err, "more than 1024 bytes")
	})
}

// A method with another codec is another method.
func TestCodecIsPartOfTheMethod(t *testing.T) {
	id := ipc.NewMethod[*wrapperspb.BoolValue, *wrapperspb.BoolValue]("m", ipc.WithCodec(protocodec.Codec)).Info().ID
	require.NotEqual(t, ipc.NewMethod[int, int]("m").Info().ID, id)
	require.Equal(t, ipc.NewMethod[*wrapperspb.BoolValue, *wrapperspb.BoolValue]("m", ipc.WithCodec(protocodec.Codec), ipc.WithMaxDecoded(5)).Info().ID, id)
}

// after adds an hour.
var after = ipc.NewMethod[*timestamppb.Timestamp, *timestamppb.Timestamp]("test.after", ipc.WithCodec(protocodec.Codec))

func Example() {
	// The worker has registered a handler for it:
	//
	//	worker.Handle(s, after, func(_ context.Context, t *timestamppb.Timestamp) (*timestamppb.Timestamp, error) {
	//		return timestamppb.New(t.AsTime().Add(time.Hour)), nil
	//	})
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("proto"), socket.Driver{})
	if err != nil {
		panic(err)
	}
	defer w.Close()
	t, err := after.Call(ctx, w, timestamppb.New(time.Unix(1_700_000_000, 0)))
	if err != nil {
		panic(err)
	}
	fmt.Println(t.AsTime().Format(time.RFC3339))
	// Output: 2023-11-14T23:13:20Z
}
