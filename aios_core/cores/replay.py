"""stub"""


class RecordingCore: ...


class ReplayCore: ...
