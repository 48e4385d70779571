# Encoder: values of a table's columns become the numbers and codes that a network reads, a row or many at a time.

cdef enum:
    OF_NUMBER
    OF_DATE
    OF_CATEGORY

cdef enum:
    AS_IT_IS
    STANDARD
    ROBUST
    QUANTILE

cdef enum:
    DAYS
    YEAR
    MONTH
    DAY
    WEEKDAY
    HOUR

cdef int64_t _DAY = 86400000000   # microseconds
cdef int64_t _NO_DATE = np.iinfo(np.int64).min  # NumPy's

TABLE_METHODS = {"none": AS_IT_IS, "standard": STANDARD, "robust": ROBUST, "quantile": QUANTILE}
TABLE_PARTS = {"days": DAYS, "year": YEAR, "month": MONTH, "day": DAY, "weekday": WEEKDAY, "hour": HOUR}


@cython.final
cdef class Encoding:
    """One column: what its values are, and where their numbers go.

    place: of its first number in a row; indicator: of the 1 that marks a gap, or -1.  levels: of a category, the place, or
    where slot is a column of the codes (not -1) the code, of each level; missing, unknown: of what has no level, or -1.
    cycle: of a date's part, (period, 2) float64, sine and cosine."""
    cdef object name, type
    cdef dict levels
    cdef int of, method, part, place, indicator, slot, missing, unknown, n_knots
    cdef double fill, center, scale
    cdef cnp.ndarray knots, heights, cycle

    def __init__(self, str name, int place, *, int method=0, int part=-1, int indicator=-1, double fill=0, double center=0,
                 double scale=1, knots=(), heights=(), cycle=None, levels=None, type=None, int slot=-1, int missing=-1,
                 int unknown=-1):
        self.name, self.type, self.levels, self.cycle = name, type, levels, cycle
        self.of = OF_CATEGORY if levels is not None else OF_NUMBER if part < 0 else OF_DATE
        self.method, self.part, self.place, self.indicator = method, part, place, indicator
        self.slot, self.missing, self.unknown = slot, missing, unknown
        self.fill, self.center, self.scale, self.n_knots = fill, center, scale, len(knots)
        self.knots, self.heights = np.array(knots, np.float64), np.array(heights, np.float64)

    cdef double scaled(self, double x) noexcept:
        """As the network reads it."""
        cdef const double *knots
        cdef const double *heights
        cdef int low = 0, high = self.n_knots - 1, middle
        cdef double z
        if self.method == AS_IT_IS:
            return x
        if self.method == QUANTILE:
            knots = <const double *>cnp.PyArray_DATA(self.knots)
            heights = <const double *>cnp.PyArray_DATA(self.heights)
            if x <= knots[0]:
                return heights[0]
            if x >= knots[high]:
                return heights[high]
            while high - low > 1:
                middle = (low + high) // 2
                if knots[middle] <= x:
                    low = middle
                else:
                    high = middle
            return heights[low] + (heights[high] - heights[low]) * ((x - knots[low]) / (knots[high] - knots[low]))
        z = (x - self.center) / self.scale
        if self.method == STANDARD:
            return z
        if not -1e9 < z < 1e9:  # whose square may overflow
            return 3.0 if z > 0 else -3.0
        return z / sqrt(1 + (z / 3) * (z / 3))

    cdef void put_number(self, double x, double *numbers) noexcept:
        """x: NaN for a gap."""
        if x != x:
            x = self.fill
            if self.indicator >= 0:
                numbers[self.indicator] = 1
        numbers[self.place] = self.scaled(x)

    cdef void put_date(self, int64_t us, double *numbers) noexcept:
        """us: microseconds since 1970."""
        cdef int64_t days, era, day, year, month
        cdef const double *pair
        if us == _NO_DATE:
            if self.cycle is None:
                self.put_number(NAN, numbers)
            return
        days = us // _DAY  # rounded down
        if self.part == DAYS:
            self.put_number(<double>us / <double>_DAY, numbers)
            return
        if self.part == HOUR:
            day = (us - days * _DAY) // 3600000000
        elif self.part == WEEKDAY:
            day = (days + 3) % 7
        else:  # the civil calendar, whose years begin in March here
            days += 719468
            era = days // 146097
            day = days - era * 146097
            year = (day - day // 1460 + day // 36524 - day // 146096) // 365
            day -= 365 * year + year // 4 - year // 100
            month = (5 * day + 2) // 153
            day -= (153 * month + 2) // 5
            month = month + 2 if month < 10 else month - 10
            year += era * 400 + (month < 2)
            if self.part == YEAR:
                self.put_number(<double>year, numbers)
                return
            day = month if self.part == MONTH else day
        pair = <const double *>cnp.PyArray_DATA(self.cycle) + 2 * day
        numbers[self.place], numbers[self.place + 1] = pair[0], pair[1]

    cdef put_level(self, value, double *numbers, int32_t *codes):
        """value: None for a gap."""
        cdef int place = self.missing
        if value is not None:
            known = self.levels.get(value)
            place = self.unknown if known is None else <int>known
        if self.slot >= 0:
            codes[self.slot] = place
        elif place >= 0:
            numbers[place] = 1


@cython.final
cdef class Encoder:
    """All columns of a table."""
    cdef list columns
    cdef tuple names    # of the frame's columns, each once
    cdef list places    # of each column's name among them
    cdef readonly cnp.npy_intp n_numbers, n_codes
    cdef object value
    cdef bint refuses

    def __init__(self, columns, names, int n_numbers, int n_codes, value, bint refuses):
        """value(name, v, of): what `fill` takes of a single value that is not of the column's own type, checked.
        refuses: it also says what a gap is."""
        self.columns, self.names, self.value = list(columns), tuple(names), value
        self.places = [self.names.index((<Encoding>column).name) for column in self.columns]
        self.n_numbers, self.n_codes, self.refuses = n_numbers, n_codes, refuses

    def fill(self, int number, values, cnp.ndarray numbers, cnp.ndarray codes):
        """Column `number` of some rows.

        values: (rows,) float64 of numbers, int64 of dates (microseconds since 1970), a list of levels.  numbers
        (rows, n_numbers) float64 of zeros, codes (rows, n_codes) int32, both C-contiguous."""
        cdef Encoding column = self.columns[number]
        cdef double *to = <double *>cnp.PyArray_DATA(numbers)
        cdef int32_t *code = <int32_t *>cnp.PyArray_DATA(codes)
        cdef cnp.npy_intp i, rows = len(values)
        cdef list levels
        cdef cnp.ndarray a
        if rows > numbers.shape[0] or rows > codes.shape[0]:
            raise ValueError("fill: expected room for all rows")
        if column.of == OF_CATEGORY:
            levels = values
            for i in range(rows):
                column.put_level(levels[i], to + i * self.n_numbers, code + i * self.n_codes)
            return
        a = np.ascontiguousarray(values, np.int64 if column.of == OF_DATE else np.float64)
        for i in range(rows):
            if column.of == OF_DATE:
                column.put_date((<const int64_t *>cnp.PyArray_DATA(a))[i], to + i * self.n_numbers)
            else:
                column.put_number((<const double *>cnp.PyArray_DATA(a))[i], to + i * self.n_numbers)

    def row(self, x):
        """Numbers (1, n_numbers) float64 and codes (1, n_codes) int32 of one row: a tuple or list of values in the order
        of the columns, or a dict of them by name; those that are there.  OverflowError(place) of a number that
        overflows."""
        cdef list values
        cdef Encoding column
        cdef cnp.npy_intp[2] shape
        cdef cnp.ndarray numbers, codes
        cdef double *to
        cdef double number
        cdef int64_t us = _NO_DATE
        cdef cnp.npy_intp last = -1
        if type(x) is dict:
            try:
                values = [x[name] for name in self.names]
            except KeyError:
                self.value(None, x, None)
                raise
        else:
            values = list(x)
            if len(values) != len(self.names):
                self.value(None, x, None)
        shape[0], shape[1] = 1, self.n_numbers
        numbers = cnp.PyArray_ZEROS(2, shape, cnp.NPY_DOUBLE, 0)
        shape[1] = self.n_codes
        codes = cnp.PyArray_ZEROS(2, shape, cnp.NPY_INT32, 0)
        to = <double *>cnp.PyArray_DATA(numbers)
        for k in range(len(self.columns)):
            column = <Encoding>self.columns[k]
            v = values[<cnp.npy_intp>self.places[k]]
            if column.of == OF_NUMBER:
                if isinstance(v, float):  # NumPy's, too
                    number = v
                elif v is None and not self.refuses:
                    number = NAN
                elif type(v) is int and -2**31 < v < 2**31:
                    number = <double><int64_t>v
                else:
                    number = self.value(column.name, v, None)
                if number - number != 0 and (number == number or self.refuses):
                    self.value(column.name, v, None)  # which is no number
                column.put_number(number, to)
            elif column.of == OF_CATEGORY:
                if v is not None and (type(v) is not column.type or v != v):
                    v = self.value(column.name, v, column.type)
                column.put_level(v, to, <int32_t *>cnp.PyArray_DATA(codes))
            else:
                if <cnp.npy_intp>self.places[k] != last:  # else it is another part of the same date
                    last = self.places[k]
                    us = _NO_DATE if v is None and not self.refuses else self.value(column.name, v, "date")
                column.put_date(us, to)
        for place in range(self.n_numbers):
            if to[place] - to[place] != 0:
                raise OverflowError(place)
        return [a for a in (numbers, codes) if a.shape[1]]
